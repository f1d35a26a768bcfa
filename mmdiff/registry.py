"""Registries of the scope ``mmdiff``.

They are children of mmengine's roots, so ``type='mmdiff.DiffusionUNet'`` resolves
from mmdet and from mmpretrain configs alike. ``ATTACKS``, ``OBJECTIVES`` and ``MASKS``
are roots of their own. Whoever uses a component comes by here, so here the mm packages
are checked.
"""

from .utils.environment import check_stack

check_stack()  # before mmengine is imported: it names what is missing

# ruff: noqa: E402
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODEL_WRAPPERS as MMENGINE_MODEL_WRAPPERS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

# Lets `_base_ = 'mmdiff::detection/...'` and mmengine.hub.get_config find the configs.
MODULE2PACKAGE.setdefault('mmdiff', 'mmdiff')

# Locations are modules that register what they define: packages with lazy names do not.
MODELS = Registry(
    'model', parent=MMENGINE_MODELS, scope='mmdiff', locations=['mmdiff.models']
)
MODEL_WRAPPERS = Registry(
    'model_wrapper',
    parent=MMENGINE_MODEL_WRAPPERS,
    scope='mmdiff',
    locations=['mmdiff.models'],
)
DATASETS = Registry(
    'dataset',
    parent=MMENGINE_DATASETS,
    scope='mmdiff',
    locations=['mmdiff.datasets.registered'],
)
DATA_SAMPLERS = Registry(
    'data sampler',
    parent=MMENGINE_DATA_SAMPLERS,
    scope='mmdiff',
    locations=['mmdiff.datasets'],
)
TRANSFORMS = Registry(
    'transform',
    parent=MMENGINE_TRANSFORMS,
    scope='mmdiff',
    locations=['mmdiff.datasets.transforms'],
)
HOOKS = Registry(
    'hook', parent=MMENGINE_HOOKS, scope='mmdiff', locations=['mmdiff.engine.hooks']
)
LOOPS = Registry(
    'loop', parent=MMENGINE_LOOPS, scope='mmdiff', locations=['mmdiff.engine.loops']
)
METRICS = Registry(
    'metric',
    parent=MMENGINE_METRICS,
    scope='mmdiff',
    locations=['mmdiff.evaluation.metrics'],
)
ATTACKS = Registry('attack', scope='mmdiff', locations=['mmdiff.attacks.registered'])
OBJECTIVES = Registry(
    'objective', scope='mmdiff', locations=['mmdiff.attacks.registered']
)
MASKS = Registry('mask', scope='mmdiff', locations=['mmdiff.attacks.masks'])
