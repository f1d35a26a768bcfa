"""What a representation is like: measures on features of images, without a model.

Features are one vector per image, (N, d). Names are imported when they are first used.
"""

from mmdiff.utils.lazy import attach

_EXPORTS = {
    'AnalysisResults': 'results',
    'Estimate': 'estimates',
    'PrincipalAxes': 'dimension',
    'SparseSettings': 'autoencoder',
    'TopKAutoencoder': 'autoencoder',
    'alignment': 'sphere',
    'classification_dimension': 'dimension',
    'cka': 'similarity',
    'effective_rank': 'rank',
    'fit_autoencoder': 'autoencoder',
    'radial_shares': 'frequency',
    'share_above': 'frequency',
    'uniformity': 'sphere',
}
__all__ = [*_EXPORTS]

__getattr__, __dir__ = attach(__name__, _EXPORTS)
