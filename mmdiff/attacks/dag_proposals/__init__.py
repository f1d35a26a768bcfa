"""Boxes found once, and their class logits on any other image (for DAG)."""

from .base import PredictionProposals, Proposals
from .dense import DenseProposals
from .finding import propose
from .queries import QueryProposals
from .roi import RoIProposals

__all__ = [
    'DenseProposals',
    'PredictionProposals',
    'Proposals',
    'QueryProposals',
    'RoIProposals',
    'propose',
]
