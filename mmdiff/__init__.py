"""mmdiff: frozen diffusion U-Nets as robust backbones for MMDetection.

Names are imported when they are first used: a command that only reads results waits
neither for torch nor for mmdet.
"""

from importlib import import_module
from typing import Any

from .version import __version__

# Name: the module that has it. Subpackages are names of their own.
_EXPORTS = {
    'DAG': 'attacks',
    'PGD': 'attacks',
    'DiffusionModel': 'diffusion',
    'config_path': 'utils.configs',
}
_PACKAGES = (
    'attacks',
    'datasets',
    'diffusion',
    'engine',
    'evaluation',
    'models',
    'registry',
    'utils',
)
__all__ = ['__version__', *_EXPORTS, *_PACKAGES]  # noqa: PLE0604 (computed)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(f'{__name__}.{_EXPORTS[name]}'), name)
    if name in _PACKAGES:
        return import_module(f'{__name__}.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted(__all__)
