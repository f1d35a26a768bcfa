"""The prior: loading, noise schedule, taps, denoising, sampling, pretraining."""

from .diffusion_model import DiffusionModel
from .diffusion_pretrainer import DiffusionPretrainer
from .generation import generate_images
from .sampling import sample_grid, to_uint8
from .schedule import build_scheduler
from .taps import FeatureInfo

__all__ = [
    'DiffusionModel',
    'DiffusionPretrainer',
    'FeatureInfo',
    'build_scheduler',
    'generate_images',
    'sample_grid',
    'to_uint8',
]
