"""Analysis of what layers of a model, or taps of a prior, make of images."""

from mmdiff.utils.lazy import attach

_EXPORTS = {
    'AnalysisSettings': 'settings',
    'ModelRequest': 'subjects',
    'PriorRequest': 'subjects',
    'RepresentationAnalysis': 'analysis',
}
__all__ = [*_EXPORTS]

__getattr__, __dir__ = attach(__name__, _EXPORTS)
