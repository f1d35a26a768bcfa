"""Heads of classes, for mmpretrain's classifiers."""

from .attention_head import AttentionClsHead

__all__ = ['AttentionClsHead']
