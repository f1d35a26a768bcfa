"""Metrics of the Runner."""

from .denoising_loss import DenoisingLoss

__all__ = ['DenoisingLoss']
