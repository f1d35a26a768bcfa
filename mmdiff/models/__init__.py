"""The prior as components of mm models."""

from .backbones import DiffusionUNet
from .necks import DiffusionFPN

__all__ = ['DiffusionFPN', 'DiffusionUNet']
