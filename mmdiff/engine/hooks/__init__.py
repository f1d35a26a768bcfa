from .attack_hook import AttackHook
from .feature_cache_hook import FeatureCacheHook
from .norm_eval_hook import NormEvalHook
from .sample_hook import SampleHook
from .training_time_hook import TrainingTimeHook

__all__ = [
    'AttackHook',
    'FeatureCacheHook',
    'NormEvalHook',
    'SampleHook',
    'TrainingTimeHook',
]
