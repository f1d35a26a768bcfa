"""The prior as components of mm models, and as a model to train."""

from .backbones import DiffusionUNet, PreActResNet
from .losses import (
    FreeATLoss,
    MadryLoss,
    RepresentationAlignmentLoss,
    TRADESLoss,
)
from .necks import DiffusionFPN
from .pretrainers import DiffusionPretrainer, MultiHeadDistiller
from .purifiers import DiffPure, LikelihoodMaximization, OneStepDenoiser
from .wrappers import (
    AdversarialModel,
    AlignedModel,
    PurifiedModel,
    ReplayedDataParallel,
    SmoothedDetector,
)

__all__ = [
    'AdversarialModel',
    'AlignedModel',
    'DiffPure',
    'DiffusionFPN',
    'DiffusionPretrainer',
    'DiffusionUNet',
    'FreeATLoss',
    'LikelihoodMaximization',
    'MadryLoss',
    'MultiHeadDistiller',
    'OneStepDenoiser',
    'PreActResNet',
    'PurifiedModel',
    'ReplayedDataParallel',
    'RepresentationAlignmentLoss',
    'SmoothedDetector',
    'TRADESLoss',
]

try:
    from .backbones.conv_stem_convnext import ConvStemConvNeXt  # noqa: F401
    from .classifiers import (  # noqa: F401
        DiffusionClassifier,
        SmoothedClassifier,
    )
    from .heads import AttentionClsHead, PooledLinearClsHead  # noqa: F401
except ImportError:
    # Without mmpretrain, or what it imports, there are no classifiers and none of its
    # backbones: detectors do without.
    pass
else:
    __all__ += [
        'AttentionClsHead',
        'ConvStemConvNeXt',
        'DiffusionClassifier',
        'PooledLinearClsHead',
        'SmoothedClassifier',
    ]
