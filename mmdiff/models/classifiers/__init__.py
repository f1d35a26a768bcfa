"""Classifiers of mmpretrain that are a diffusion prior."""

from .diffusion_classifier import DiffusionClassifier

__all__ = ['DiffusionClassifier']
