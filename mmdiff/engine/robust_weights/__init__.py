"""Published weights of adversarially trained models -> checkpoints of mm models.

The weights are exact, by name and by shape: what is missing or left over is an error
that names it.
"""

from .convnext import convert_convnext
from .detector import convert_detector
from .resnet import convert_resnet

__all__ = ['convert_convnext', 'convert_detector', 'convert_resnet']
