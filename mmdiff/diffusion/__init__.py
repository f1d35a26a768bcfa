"""The prior: loading, noise schedule, taps, denoising, sampling.

Nothing in here needs an mm package: torch, torchvision and diffusers are enough.
"""

from .base import DiffusionModel
from .ddpm import DDPMDiffusionModel
from .denoising_error import DenoisingError
from .edm import EDMDiffusionModel
from .features import FeatureInfo
from .generation import generate_images, sample_grid, to_uint8
from .latent import LatentDiffusionModel
from .levels import NoiseLevels, choose_levels
from .likelihood import ClassLikelihood, denoising_errors
from .schedule import build_scheduler
from .sdxl import SDXLDiffusionModel

__all__ = [
    'ClassLikelihood',
    'DDPMDiffusionModel',
    'DenoisingError',
    'DiffusionModel',
    'EDMDiffusionModel',
    'FeatureInfo',
    'LatentDiffusionModel',
    'NoiseLevels',
    'SDXLDiffusionModel',
    'build_scheduler',
    'choose_levels',
    'denoising_errors',
    'generate_images',
    'sample_grid',
    'to_uint8',
]
