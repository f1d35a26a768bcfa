"""SHA-256 names of settings, files and weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SHORT = 12  # hexadecimal digits: enough to tell apart what one machine will ever keep


def digest_json(content: object) -> str:
    """Name anything that JSON can say, in ``SHORT`` hexadecimal digits.

    Example:
        >>> digest_json({'a': 1, 'b': 2}) == digest_json({'b': 2, 'a': 1})
        True
    """
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:SHORT]


def digest_file(path: str | Path) -> str:
    """SHA-256 of a file in hexadecimal digits, as ``sha256sum`` prints it."""
    digest = hashlib.sha256()
    with Path(path).open('rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def digest_tensors(named: Iterable[tuple[str, Tensor]]) -> bytes:
    """SHA-256 of tensors: their names and bytes, in the order given. 32 bytes."""
    import torch

    digest = hashlib.sha256()
    for name, value in named:
        digest.update(name.encode())
        digest.update(value.cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.digest()
