"""Models around any mm model: shields, and what trains it."""

from .adversarial_model import AdversarialModel
from .aligned_model import AlignedModel
from .data_parallel import ReplayedDataParallel
from .purified_model import PurifiedModel
from .smoothed_detector import SmoothedDetector

__all__ = [
    'AdversarialModel',
    'AlignedModel',
    'PurifiedModel',
    'ReplayedDataParallel',
    'SmoothedDetector',
]
