from .attack_hook import AttackHook
from .feature_cache_hook import FeatureCacheHook
from .sample_hook import SampleHook

__all__ = ['AttackHook', 'FeatureCacheHook', 'SampleHook']
