"""The prior as components of mm models, and as a model to train."""

from .backbones import DiffusionUNet, PreActResNet
from .losses import (
    FreeATLoss,
    MadryLoss,
    RepresentationAlignmentLoss,
    TRADESLoss,
)
from .necks import DiffusionFPN
from .pretrainers import DiffusionPretrainer
from .wrappers import AdversarialModel, AlignedModel, ReplayedDataParallel

__all__ = [
    'AdversarialModel',
    'AlignedModel',
    'DiffusionFPN',
    'DiffusionPretrainer',
    'DiffusionUNet',
    'FreeATLoss',
    'MadryLoss',
    'PreActResNet',
    'ReplayedDataParallel',
    'RepresentationAlignmentLoss',
    'TRADESLoss',
]

try:
    from .heads import AttentionClsHead  # noqa: F401
except ImportError:
    # Without mmpretrain, or what it imports, there is no classifier for the head:
    # detectors do without.
    pass
else:
    __all__ += ['AttentionClsHead']
