"""Choose the images of a prior that a classifier is sure of."""

from .choice import Choice, choose
from .filter import filter_images

__all__ = ['Choice', 'choose', 'filter_images']
