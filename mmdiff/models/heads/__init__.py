"""Heads of classes, for mmpretrain's classifiers."""

from .attention_head import AttentionClsHead
from .linear_head import PooledLinearClsHead

__all__ = ['AttentionClsHead', 'PooledLinearClsHead']
