"""Median smoothing of detections: copies, slots, order statistics, certificates."""

from .certificates import certify, smoothed_boxes
from .kept_copies import KeptCopies, StateFolder
from .noisy_detections import NoisyDetections
from .settings import SmoothingSettings

__all__ = [
    'KeptCopies',
    'NoisyDetections',
    'SmoothingSettings',
    'StateFolder',
    'certify',
    'smoothed_boxes',
]
