"""Hooks of the Runner."""

from .hooks import AttackHook

__all__ = ['AttackHook']
