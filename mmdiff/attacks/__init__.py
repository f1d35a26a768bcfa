"""Attacks on any mm model, in pixel units, in front of its preprocessor."""

from .apgd import APGD
from .attack import Attack, AttackStats
from .dag import DAG
from .gradient_attack import GradientAttack, GradientBlocked
from .mim import MIM
from .pgd import PGD
from .random_noise import RandomNoise
from .square import Square
from .transfer import Transfer

__all__ = [
    'APGD',
    'DAG',
    'MIM',
    'PGD',
    'Attack',
    'AttackStats',
    'GradientAttack',
    'GradientBlocked',
    'RandomNoise',
    'Square',
    'Transfer',
]
