"""Write files and folders whole or not at all.

A reader, or the run after a kill, sees what was there before or all of what is new.
"""

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

from .digests import say_in_json


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a path to write to, which becomes ``path`` when the block ends well.

    The folder of ``path`` is made if it is missing. Two threads or processes, also of
    two machines, may write the same file: each has a partial file of its own, and the
    last one to finish wins.

    Args:
        path: File to write or to replace.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / 'runs' / 'one.txt'
        >>> with whole_file(path) as partial:
        ...     _ = partial.write_text('all of it')
        >>> path.read_text()
        'all of it'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays: some writers (np.savez, Pillow) go by it.
    partial = path.with_name(f'.{path.stem}.{token_hex(4)}.partial{path.suffix}')
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | Path, replace: bool = False) -> Iterator[Path]:
    """Give an empty folder to fill, which becomes ``path`` when the block ends well.

    Args:
        path: Folder to write.
        replace: Remove a folder that is there; otherwise it is an error.

    Raises:
        FileExistsError: If ``path`` exists and is not to be replaced.
    """
    path = Path(path)
    if path.exists() and not replace:
        raise FileExistsError(f'{path} exists already; remove it or give another name.')
    partial = path.with_name(f'{path.name}.partial')
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_json(path: str | Path, content: object) -> None:
    """Write ``content`` as indented, strict JSON, whole or not at all.

    NaN and infinities are no JSON: they become ``null``. What else JSON does not know
    is said as :func:`mmdiff.utils.digests.say_in_json` does.
    """
    text = json.dumps(strict_json(content), indent=1, allow_nan=False)
    with whole_file(path) as partial:
        partial.write_text(text + '\n', encoding='utf-8')


def strict_json(content: object) -> Any:
    """Say anything by what strict JSON knows.

    Example:
        >>> strict_json({'type': Path, 'scale': (1, math.nan)})
        {'type': 'pathlib.Path', 'scale': [1, None]}
    """
    if isinstance(content, Mapping):
        return {key: strict_json(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [strict_json(value) for value in content]
    if content is None or isinstance(content, str | int):
        return content
    if isinstance(content, float):
        return float(content) if math.isfinite(content) else None
    return strict_json(say_in_json(content))
