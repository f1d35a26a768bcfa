from .adversarial_model import AdversarialModel
from .aligned_model import AlignedModel
from .data_parallel import ReplayedDataParallel

__all__ = ['AdversarialModel', 'AlignedModel', 'ReplayedDataParallel']
