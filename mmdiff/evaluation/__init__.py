"""Robustness results: rows, records, scores, checks, tables and pages.

Data and arithmetic only: no Runner, no model, no attack is run here. Names are imported
when they are first used: a page is made of files without torch.
"""

from mmdiff.utils.lazy import attach

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

__getattr__, __dir__ = attach(__name__, _EXPORTS, _PACKAGES)
