"""Arrays and results that take long to compute, kept on disk by name."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mmdiff.evaluation.representation.revival import revive
from mmdiff.utils.digests import digest_json
from mmdiff.utils.files import whole_file, write_json


class ArrayStore:
    """Named sets of arrays in a folder; a damaged file is as one that is not there.

    Args:
        folder: The folder.

    Example:
        >>> import tempfile
        >>> store = ArrayStore(Path(tempfile.mkdtemp()))
        >>> store.get('a', lambda: {'x': np.ones(2)})['x']
        array([1., 1.])
        >>> store.get('a', lambda: {})['x']
        array([1., 1.])
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(
        self, name: str, compute: Callable[[], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Read arrays, or compute and keep them."""
        file = self.folder / f'{name}.npz'
        try:
            with np.load(file, allow_pickle=False) as read:
                return dict(read)
        except (FileNotFoundError, EOFError, OSError, ValueError, zipfile.BadZipFile):
            arrays = compute()
        with whole_file(file) as partial:
            np.savez(partial, allow_pickle=False, **arrays)
        return arrays


class ResultStore:
    """Results of measures in a folder; a damaged file is as one that is not there.

    Args:
        folder: The folder.
        common: What all of them depend on.
    """

    def __init__(self, folder: Path, common: Sequence[Any]) -> None:
        self.folder, self.common = folder, common

    def _file(self, name: Sequence[str]) -> Path:
        return self.folder / f'{digest_json([self.common, name])}.json'

    def get(self, name: Sequence[str], kind: type) -> Any:
        """Read a result, a record of a kind; ``None`` if it is not there."""
        try:
            text = self._file(name).read_text(encoding='utf-8')
            return revive(kind, json.loads(text))
        except (FileNotFoundError, KeyError, TypeError, ValueError):
            return None

    def put(self, name: Sequence[str], result: Any) -> None:
        """Keep a result."""
        write_json(self._file(name), asdict(result))
