"""The prior as components of mm models, and as a model to train."""

from .backbones import DiffusionUNet
from .necks import DiffusionFPN
from .pretrainers import DiffusionPretrainer

__all__ = ['DiffusionFPN', 'DiffusionPretrainer', 'DiffusionUNet']

try:
    from .heads import AttentionClsHead, PooledLinearClsHead  # noqa: F401
except ImportError:
    # Without mmpretrain, or what it imports, there is no classifier for the heads:
    # detectors do without.
    pass
else:
    __all__ += ['AttentionClsHead', 'PooledLinearClsHead']
