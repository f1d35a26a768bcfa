"""Transforms of test and training pipelines."""

from .corrupt import CORRUPTIONS, SEVERITIES, Corrupt

__all__ = ['CORRUPTIONS', 'SEVERITIES', 'Corrupt']
