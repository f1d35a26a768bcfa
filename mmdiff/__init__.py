"""mmdiff: frozen diffusion U-Nets as robust backbones for MMDetection.

Names are imported when they are first used: a command that only reads results waits
neither for torch nor for mmdet.
"""

from .utils.lazy import attach
from .version import __version__

# Name: the module that has it. Subpackages are names of their own.
_EXPORTS = {
    'AdversarialModel': 'models',
    'AlignedModel': 'models',
    'DAG': 'attacks',
    'MASKS': 'registry',
    'OBJECTIVES': 'registry',
    'PGD': 'attacks',
    'RepresentationAlignmentLoss': 'models',
    'TorchAttack': 'attacks',
    'DiffusionClassifier': 'models',
    'DiffusionModel': 'diffusion',
    'PurifiedModel': 'models',
    'SmoothedDetector': 'models',
    'config_path': 'utils.configs',
}
_PACKAGES = (
    'attacks',
    'datasets',
    'diffusion',
    'engine',
    'evaluation',
    'models',
    'registry',
    'utils',
)
__all__ = ['__version__', *_EXPORTS, *_PACKAGES]  # noqa: PLE0604 (computed)

__getattr__, __dir__ = attach(__name__, _EXPORTS, _PACKAGES)
