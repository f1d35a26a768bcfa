"""Hooks and loops of the Runner, and the export of what it trained."""

from .export import export_prior
from .hooks import AttackHook, SampleHook
from .loops import RobustTestLoop

__all__ = ['AttackHook', 'RobustTestLoop', 'SampleHook', 'export_prior']
