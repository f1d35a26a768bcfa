"""Attacks on any mm model, in pixel units, in front of its preprocessor."""

from .attack import Attack, AttackStats
from .dag import DAG
from .pgd import PGD

__all__ = ['DAG', 'PGD', 'Attack', 'AttackStats']
