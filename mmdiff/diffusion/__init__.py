"""The prior: loading, noise schedule, taps, denoising, sampling, pretraining."""

from .diffusion_model import DiffusionModel, FeatureInfo
from .diffusion_pretrainer import DiffusionPretrainer
from .schedule import build_scheduler

__all__ = ['DiffusionModel', 'DiffusionPretrainer', 'FeatureInfo', 'build_scheduler']
