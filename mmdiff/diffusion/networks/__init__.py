"""Networks that diffusers does not have."""

from .edm_precond import EDMPrecond
from .edm_unet import EDMUNet

__all__ = ['EDMPrecond', 'EDMUNet']
