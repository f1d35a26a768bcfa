"""All that knows the Runner: hooks, loops, presets, galleries, exports.

Hooks and loops register themselves; all else is imported when it is first used.
"""

from mmdiff.utils.lazy import attach

from .hooks import AttackHook, SampleHook
from .loops import RobustTestLoop

_EXPORTS = {
    'attack_configs': 'presets',
    'convert_convnext': 'robust_weights',
    'convert_detector': 'robust_weights',
    'convert_resnet': 'robust_weights',
    'draw_grid': 'gallery',
    'evaluate_corruptions': 'corruptions',
    'export_prior': 'export',
    'export_weights': 'bare_weights',
    'filter_images': 'image_filter',
    'ground_truth_scale': 'ground_truth',
    'protocol_of': 'presets',
}
__all__ = ['AttackHook', 'RobustTestLoop', 'SampleHook', *_EXPORTS]

__getattr__, __dir__ = attach(__name__, _EXPORTS)
