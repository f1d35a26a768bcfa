"""Find the configs that the package carries."""

from pathlib import Path


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
