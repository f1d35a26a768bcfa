"""Data: the generated demo set, images of priors, common corruptions."""

from .generated import GeneratedDataset, MixedBatchSampler, MixedDataset
from .transforms import CORRUPTIONS, SEVERITIES, Corrupt, LoadImageFromNpy

__all__ = [
    'CORRUPTIONS',
    'SEVERITIES',
    'Corrupt',
    'GeneratedDataset',
    'LoadImageFromNpy',
    'MixedBatchSampler',
    'MixedDataset',
]
