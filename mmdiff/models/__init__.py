"""The prior as components of mm models, and as a model to train."""

from .backbones import DiffusionUNet
from .necks import DiffusionFPN
from .pretrainers import DiffusionPretrainer
from .purifiers import DiffPure, LikelihoodMaximization, OneStepDenoiser
from .wrappers import PurifiedModel

__all__ = [
    'DiffPure',
    'DiffusionFPN',
    'DiffusionPretrainer',
    'DiffusionUNet',
    'LikelihoodMaximization',
    'OneStepDenoiser',
    'PurifiedModel',
]

try:
    from .heads import AttentionClsHead  # noqa: F401
except ImportError:
    # Without mmpretrain, or what it imports, there is no classifier for the head:
    # detectors do without.
    pass
else:
    __all__ += ['AttentionClsHead']
