"""Data: the generated demo set, common corruptions."""

from .corrupt import CORRUPTIONS, SEVERITIES, Corrupt

__all__ = ['CORRUPTIONS', 'SEVERITIES', 'Corrupt']
