"""Metrics of the Runner."""

from .certified_accuracy import CertifiedAccuracy
from .denoising_loss import DenoisingLoss

__all__ = ['CertifiedAccuracy', 'DenoisingLoss']
