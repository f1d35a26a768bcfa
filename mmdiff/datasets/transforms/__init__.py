"""Transforms of test and training pipelines."""

from .corrupt import CORRUPTIONS, SEVERITIES, Corrupt
from .load_npy import LoadImageFromNpy

__all__ = ['CORRUPTIONS', 'SEVERITIES', 'Corrupt', 'LoadImageFromNpy']
