from .diffusion_pretrainer import DiffusionPretrainer
from .multihead_distiller import MultiHeadDistiller

__all__ = ['DiffusionPretrainer', 'MultiHeadDistiller']
