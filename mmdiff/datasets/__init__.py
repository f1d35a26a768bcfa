"""Data: the generated demo set, common corruptions."""

from .transforms import CORRUPTIONS, SEVERITIES, Corrupt, LoadImageFromNpy

__all__ = ['CORRUPTIONS', 'SEVERITIES', 'Corrupt', 'LoadImageFromNpy']
