from .adversarial import AdversarialLoss, MadryLoss
from .free_at import FreeATLoss
from .representation_alignment import RepresentationAlignmentLoss
from .trades import TRADESLoss

__all__ = [
    'AdversarialLoss',
    'FreeATLoss',
    'MadryLoss',
    'RepresentationAlignmentLoss',
    'TRADESLoss',
]
