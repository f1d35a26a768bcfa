"""SHA-256 names of settings, files and weights."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from functools import partial
from inspect import isroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

SHORT = 12  # hexadecimal digits: enough to tell apart what one machine will ever keep


def digest_json(content: object) -> str:
    """Name anything that JSON can say, in ``SHORT`` hexadecimal digits.

    Example:
        >>> digest_json({'a': 1, 'b': 2}) == digest_json({'b': 2, 'a': 1})
        True
    """
    text = json.dumps(content, sort_keys=True, default=say_in_json)
    return hashlib.sha256(text.encode()).hexdigest()[:SHORT]


def say_in_json(thing: object) -> Any:
    """Say by what JSON knows, or comes nearer to it, a thing that it does not know.

    What is said is the same in every process: classes and functions are called by
    module and name, arrays and tensors by their values, and an object without words of
    its own (its ``str`` would be its address) by its class and attributes.

    Example:
        >>> say_in_json(Path), say_in_json(Path('a/b'))
        ('pathlib.Path', 'a/b')
    """
    if isinstance(thing, type) or isroutine(thing):
        return f'{thing.__module__}.{thing.__qualname__}'
    if isinstance(thing, partial):
        return [thing.func, thing.args, thing.keywords]
    if hasattr(thing, 'tolist'):
        return thing.tolist()
    if isinstance(thing, set | frozenset):
        return sorted(map(str, thing))
    kind = type(thing)
    if kind.__repr__ is object.__repr__ and kind.__str__ is object.__str__:
        return [kind, vars(thing)] if hasattr(thing, '__dict__') else [kind]
    return str(thing)


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


def digest_model(model: nn.Module) -> str:
    """Name the parameters and buffers of a model, in ``SHORT`` hexadecimal digits."""
    values = (*model.named_parameters(), *model.named_buffers())
    named = [(f'{k} {tuple(v.shape)} {v.dtype}', v.detach()) for k, v in values]
    return digest_tensors(named).hex()[:SHORT]


def digest_code(kinds: Iterable[type]) -> str:
    """Name the files that define some classes, and those that these derive from.

    Code that such a file calls in another one is not looked at, nor are the standard
    library and what has no file: compiled classes, those of a notebook.

    Args:
        kinds: The classes.

    Example:
        >>> digest_code([Path]) == digest_code([])
        True
    """
    modules = {base.__module__ for kind in kinds for base in kind.__mro__}
    digests = {}
    for name in modules:
        if name.partition('.')[0] in sys.stdlib_module_names - {'__main__'}:
            continue
        file = Path(getattr(sys.modules.get(name), '__file__', None) or '')
        if file.suffix == '.py' and file.is_file():
            digests[name] = digest_file(file)
    return digest_json(digests)
