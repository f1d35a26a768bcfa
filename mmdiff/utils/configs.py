"""Configs that the package carries, and where a config's results go."""

from pathlib import Path

from mmengine.config import Config


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
