"""Metrics of the Runner."""

from .certified_accuracy import CertifiedAccuracy
from .certified_ap import CertifiedAP
from .denoising_loss import DenoisingLoss

__all__ = ['CertifiedAP', 'CertifiedAccuracy', 'DenoisingLoss']
