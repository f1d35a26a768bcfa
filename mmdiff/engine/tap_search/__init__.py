"""Which taps, and which noise level: a search on a frozen prior by fast probes."""

from mmdiff.utils.lazy import attach

_EXPORTS = {
    'Cell': 'grid',
    'Grid': 'grid',
    'SearchSettings': 'settings',
    'TapSearch': 'search',
}
__all__ = [*_EXPORTS]

__getattr__, __dir__ = attach(__name__, _EXPORTS)
