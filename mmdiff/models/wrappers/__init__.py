"""Models around any mm model."""

from .purified_model import PurifiedModel

__all__ = ['PurifiedModel']
