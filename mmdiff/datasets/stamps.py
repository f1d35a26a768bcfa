"""What a generated set was made with, in a file beside it."""

from pathlib import Path


def is_made(out: Path, file: str, stamp: str) -> bool:
    """Whether a set of the same arguments lies there; anything else is refused.

    Args:
        out: Folder of the set.
        file: Name of the file in it that has the arguments.
        stamp: The arguments.

    Raises:
        FileExistsError: If the folder holds something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    marker = out / file
    if marker.is_file() and marker.read_text() == stamp:
        return True
    raise FileExistsError(
        f'{out} exists and is not a toy set of these arguments; remove it or choose '
        'another folder.'
    )
