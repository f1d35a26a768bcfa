"""The prior: loading, noise schedule, taps, denoising, sampling.

Nothing in here needs an mm package: torch, torchvision and diffusers are enough.
"""

from .base import DiffusionModel
from .ddpm import DDPMDiffusionModel
from .edm import EDMDiffusionModel
from .features import FeatureInfo
from .generation import generate_images, sample_grid, to_uint8
from .latent import LatentDiffusionModel
from .schedule import build_scheduler
from .sdxl import SDXLDiffusionModel

__all__ = [
    'DDPMDiffusionModel',
    'DiffusionModel',
    'EDMDiffusionModel',
    'FeatureInfo',
    'LatentDiffusionModel',
    'SDXLDiffusionModel',
    'build_scheduler',
    'generate_images',
    'sample_grid',
    'to_uint8',
]
