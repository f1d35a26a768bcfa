"""All that knows the Runner: hooks, loops, presets, galleries, exports.

Hooks and loops register themselves; all else is imported when it is first used.
"""

from importlib import import_module
from typing import Any

from .hooks import AttackHook, SampleHook
from .loops import RobustTestLoop

_EXPORTS = {
    'attack_configs': 'presets',
    'draw_grid': 'gallery',
    'evaluate_corruptions': 'corruptions',
    'export_prior': 'export',
    'ground_truth_scale': 'ground_truth',
    'protocol_of': 'presets',
}
__all__ = ['AttackHook', 'RobustTestLoop', 'SampleHook', *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(f'{__name__}.{_EXPORTS[name]}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted(__all__)
