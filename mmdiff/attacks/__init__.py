"""Attacks on any mm model, in pixel units, in front of its preprocessor.

Names are imported when they are first used: a report reads budgets and accounts of
attacks without torch.
"""

from importlib import import_module
from typing import Any

_EXPORTS = {
    'APGD': 'apgd',
    'DAG': 'dag',
    'MIM': 'mim',
    'PGD': 'pgd',
    'Attack': 'attack',
    'AttackResult': 'result',
    'AttackStats': 'result',
    'Budget': 'budget',
    'GradientAttack': 'iterative_attack',
    'GradientBlocked': 'errors',
    'IterativeAttack': 'iterative_attack',
    'NotApplicable': 'errors',
    'Oracle': 'oracle',
    'RandomNoise': 'random_noise',
    'Square': 'square',
    'oracle_of': 'oracle',
}
__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(f'{__name__}.{_EXPORTS[name]}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted(__all__)
