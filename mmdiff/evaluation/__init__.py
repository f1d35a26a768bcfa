"""Robustness results: rows, records, scores, checks, tables and pages.

Data and arithmetic only: no Runner, no model, no attack is run here. Names are imported
when they are first used: a page is made of files without torch.
"""

from importlib import import_module
from typing import Any

_EXPORTS = {
    'Cost': 'entry',
    'Entry': 'entry',
    'Flag': 'entry',
    'Sanity': 'entry',
    'main_metric': 'entry',
    'Results': 'results',
    'RunRecord': 'record',
    'Scorer': 'scoring',
    'scorer_of': 'scoring',
}
_PACKAGES = ('metrics', 'report', 'scoring')
__all__ = [*_EXPORTS, *_PACKAGES]  # noqa: PLE0604 (computed)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(f'{__name__}.{_EXPORTS[name]}'), name)
    if name in _PACKAGES:
        return import_module(f'{__name__}.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted(__all__)
