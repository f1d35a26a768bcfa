"""The prior as components of mm models, and as a model to train."""

from .backbones import DiffusionUNet
from .necks import DiffusionFPN
from .pretrainers import DiffusionPretrainer

__all__ = ['DiffusionFPN', 'DiffusionPretrainer', 'DiffusionUNet']
