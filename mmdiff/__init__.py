"""mmdiff: frozen diffusion U-Nets as robust backbones for MMDetection."""

from . import stack  # noqa: F401  isort: skip  (first: it names what is missing)
from . import attacks, diffusion, engine, models
from .attacks import DAG, PGD
from .configs import config_path
from .diffusion import DiffusionModel

__version__ = '0.1.0'
__all__ = [
    'DAG',
    'PGD',
    'DiffusionModel',
    'attacks',
    'config_path',
    'diffusion',
    'engine',
    'models',
]
