"""What takes an attack off images before a model sees them."""

from .base import Purifier
from .diffpure import DiffPure
from .likelihood_maximization import LikelihoodMaximization
from .one_step import OneStepDenoiser

__all__ = ['DiffPure', 'LikelihoodMaximization', 'OneStepDenoiser', 'Purifier']
