"""The prior as components of mm models, and as a model to train."""

from importlib.util import find_spec

from .backbones import DiffusionUNet
from .necks import DiffusionFPN
from .pretrainers import DiffusionPretrainer

__all__ = ['DiffusionFPN', 'DiffusionPretrainer', 'DiffusionUNet']

if find_spec('mmpretrain'):  # detectors do without it
    from .heads import AttentionClsHead  # noqa: F401

    __all__ += ['AttentionClsHead']
