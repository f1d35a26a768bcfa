"""Classifiers of mmpretrain that are a diffusion prior."""

from .diffusion_classifier import DiffusionClassifier
from .smoothed_classifier import SmoothedClassifier

__all__ = ['DiffusionClassifier', 'SmoothedClassifier']
