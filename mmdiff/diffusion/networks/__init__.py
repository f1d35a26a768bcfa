"""Networks that diffusers does not have: EDM's."""

from .dhariwal_unet import DhariwalUNet
from .edm_precond import EDMPrecond
from .song_unet import SongUNet

__all__ = ['DhariwalUNet', 'EDMPrecond', 'SongUNet']
