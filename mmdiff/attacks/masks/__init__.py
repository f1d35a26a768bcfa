"""Where in an image an attack may change pixels: boxes, background, a fixed region."""

from .base import Mask, build_mask
from .boxes import Background, Boxes
from .fixed import FileMask, Rectangle

__all__ = ['Background', 'Boxes', 'FileMask', 'Mask', 'Rectangle', 'build_mask']
