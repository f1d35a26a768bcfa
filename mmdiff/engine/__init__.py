"""Hooks of the Runner, and the export of what it trained."""

from .export import export_prior
from .hooks import AttackHook, SampleHook

__all__ = ['AttackHook', 'SampleHook', 'export_prior']
