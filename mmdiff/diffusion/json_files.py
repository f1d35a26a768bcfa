"""Read the JSON files of a prior; every fault is one sentence with its real cause."""

import json
from pathlib import Path

LFS_POINTER = b'version https://git-lfs'


def one_line(error: Exception) -> str:
    """Return the start of an error's text, without line breaks."""
    return ' '.join(str(error).split())[:300]


def check_pointer(file: Path) -> None:
    """Complain about what git-lfs left in the place of a file.

    Raises:
        ValueError: If ``file`` is a pointer.
    """
    with file.open('rb') as opened:
        if opened.read(len(LFS_POINTER)) == LFS_POINTER:
            raise ValueError(
                f'{file} is a pointer of git-lfs, not the file itself: run "git lfs '
                'pull" in its repository, or download the file.'
            )


def read_json(file: Path) -> dict:
    """Read a JSON file that holds an object.

    Raises:
        ValueError: If it is a git-lfs pointer, damaged, or holds something else.
    """
    check_pointer(file)
    try:
        content = json.loads(file.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(
            f'{file} is not JSON ({one_line(error)}); fetch it again.'
        ) from None
    if not isinstance(content, dict):
        raise ValueError(
            f'{file} holds a {type(content).__name__}, not settings by name; fetch it '
            'again.'
        )
    return content
