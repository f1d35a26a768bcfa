from .attack_hook import AttackHook
from .sample_hook import SampleHook

__all__ = ['AttackHook', 'SampleHook']
