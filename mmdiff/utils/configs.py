"""Configs that the package carries, and where a config's results go."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import Config

# What a config or a source can be wrong by, while models and data are built of it.
MISTAKES = (ValueError, TypeError, KeyError, AttributeError, OSError, ImportError)


@contextmanager
def mistakes_in_a_sentence() -> Iterator[None]:
    """Turn what is wrong with a config into an error that tools show as a sentence.

    Only while parts are built: an error of another kind in a run is no mistake of the
    user's.

    Raises:
        ValueError: For any of :data:`MISTAKES` but a missing file, which stays as it
            is.

    Example:
        >>> with mistakes_in_a_sentence():
        ...     raise TypeError('frozen=1 is neither True nor False.')
        Traceback (most recent call last):
        ValueError: frozen=1 is neither True nor False.
    """
    try:
        yield
    except (FileNotFoundError, ValueError):
        raise
    except MISTAKES as error:
        raise ValueError(in_a_sentence(error)) from error


def in_a_sentence(error: Exception) -> str:
    """Text of an error in one line."""
    # str() of a KeyError is the repr of its text.
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return ' '.join(str(text).split())


def is_mistake(error: Exception) -> bool:
    """Whether an error of a run says what is wrong with what a user gave.

    For scripts that build and run in one go: a missing file, what is raised while a
    registry builds a part of a config, and what a module of this package refuses by a
    ValueError of its own. Anything else is a fault, whose traceback is wanted.

    Example:
        >>> try:
        ...     config_path('nowhere.py')
        ... except OSError as error:
        ...     is_mistake(error)
        True
    """
    if isinstance(error, FileNotFoundError):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    if any(frame.name == 'build_from_cfg' for frame in frames):
        return isinstance(error, MISTAKES)
    ours = Path(__file__).resolve().parents[1]
    last = Path(frames[-1].filename).resolve() if frames else Path()
    return isinstance(error, ValueError) and ours in last.parents


def config_path(name: str) -> str:
    """Path of a config of this package, for tools that take a file.

    Args:
        name: Path below ``configs``, ``detection/faster-rcnn_...py``.

    Raises:
        FileNotFoundError: If there is none of that name; it lists those there are.

    Example:
        >>> config_path('detection/faster-rcnn_toy-unet_dfpn_1xb4-2e_toy-voc.py')[-12:]
        'e_toy-voc.py'
    """
    package = Path(__file__).resolve().parents[1]
    folders = package / '.mim' / 'configs', package.parent / 'configs'
    folder = next(f for f in folders if f.is_dir())
    if not (folder / name).is_file():
        known = sorted(
            str(path.relative_to(folder))
            for path in folder.rglob('*.py')
            if '_base_' not in path.parts
        )
        raise FileNotFoundError(f'No config {name!r}; there are: {", ".join(known)}.')
    return str(folder / name)


def work_dir_of(cfg: Config, path: str, flag: str | None) -> str:
    """Return the folder for results: the flag's, the config's, or one of its name.

    Args:
        cfg: The config.
        path: Its file.
        flag: What ``--work-dir`` says.
    """
    return flag or cfg.get('work_dir') or f'./work_dirs/{Path(path).stem}'
