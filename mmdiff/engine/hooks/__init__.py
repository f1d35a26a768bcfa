from .attack_hook import AttackHook

__all__ = ['AttackHook']
