"""Models and priors under analysis, with the layers that are looked at."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import DefaultScope
from mmengine.runner import CheckpointLoader
from torch import nn

from mmdiff.attacks.oracle import oracle_of
from mmdiff.models import DiffusionUNet
from mmdiff.registry import MODELS
from mmdiff.utils.digests import SHORT, digest_json, digest_model
from mmdiff.utils.modules import seed_all

from ..loops.origin import name_of
from ..presets import CLASSIFICATION, task_of_config
from ..tap_search.build import preprocessor_config
from .images import AnalysisImages
from .layers import LayerOutput, PriorTap

NO_CHECKPOINT, RANDOM = 'none', 'random'
MEAN = [127.5, 127.5, 127.5]


@dataclass
class Subject:
    """One model, or one prior.

    Args:
        name: Its name in tables.
        about: What a report says of it.
        preprocessor: What images go through first.
        layers: What is looked at: modules that give a tuple of one map.
        scope: Scope of the registry that it is built and run in.
        fingerprint: Name of its weights.
        settings: Name of what else its features depend on.
        draws_noise: Whether it gives other features in every pass.
        images: Its images, as its own pipeline reads them.
    """

    name: str
    about: dict[str, Any]
    preprocessor: nn.Module
    layers: list[nn.Module]
    scope: str
    fingerprint: str
    settings: str
    draws_noise: bool
    images: AnalysisImages = field(repr=False)

    @property
    def identity(self) -> str:
        """Name of all but its layers that its numbers depend on."""
        return digest_json([self.fingerprint, self.settings])


@dataclass(frozen=True)
class ModelRequest:
    """A model of mmdet or mmpretrain.

    Args:
        cfg: Its config.
        checkpoint: Its checkpoint, or ``'none'``: weights as the config brings them.
        layers: ``NAME`` or ``NAME:INDEX`` of each; none: the backbone's last output.
    """

    cfg: Config
    checkpoint: str
    layers: Sequence[str] = ()

    def build(self, images: AnalysisImages, seed: int) -> Subject:
        """Build it, and load its weights.

        Args:
            images: Images of its config.
            seed: Of random weights.

        Raises:
            FileNotFoundError: If there is no such checkpoint.
            ValueError: If the checkpoint is not of this model, or there is no such
                layer.
        """
        cfg, kind = self.cfg, task_of_config(self.cfg)
        seed_all(seed)
        own = copy.deepcopy(cfg.model)
        own.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
        model = MODELS.build(own)
        if self.checkpoint == NO_CHECKPOINT:
            if hasattr(model, 'init_weights'):
                model.init_weights()
        else:
            load_weights(model, self.checkpoint)
        oracle = oracle_of(model.to(get_device()).eval(), 'original')
        names = self.layers or ['backbone:-1']
        layers: list[nn.Module] = [LayerOutput(oracle.model, name) for name in names]
        weights = Path(self.checkpoint).stem
        parts = [part for part in model.modules() if hasattr(part, 'draws_noise')]
        return Subject(
            f'{name_of(cfg)} ({weights})',
            {
                'kind': 'model',
                'config': name_of(cfg),
                'checkpoint': weights,
                'type': type(model).__name__,
                'task': kind,
                'noise': sorted({getattr(part, 'noise', '') for part in parts}),
            },
            oracle.preprocessor,
            layers,
            cfg.get('default_scope', 'mmdet'),
            digest_model(model)[:SHORT],
            digest_json([cfg.model.to_dict(), preprocessor_config(cfg)]),
            any(part.draws_noise for part in parts),
            images,
        )


def load_weights(model: nn.Module, checkpoint: str) -> None:
    """Load a checkpoint, of which nothing that the model needs may be missing.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is of another model.
    """
    if '://' not in checkpoint and not Path(checkpoint).is_file():
        raise FileNotFoundError(
            f'There is no checkpoint {checkpoint}; give a file or a URL, or the word '
            'none for a model with the weights that its config brings.'
        )
    read = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    state = read.get('state_dict', read)
    state = {name.removeprefix('module.'): value for name, value in state.items()}
    try:
        missing = model.load_state_dict(state, strict=False).missing_keys
    except RuntimeError as error:
        line = str(error).splitlines()[-1].strip()
        raise ValueError(
            f'{Path(checkpoint).name} is of another model: {line}'
        ) from error
    missing = [name for name in missing if not name.endswith('num_batches_tracked')]
    if missing:
        raise ValueError(
            f'{Path(checkpoint).name} lacks {len(missing)} weights of '
            f'{type(model).__name__} ({missing[0]}, for one); give a checkpoint of '
            'this config.'
        )


@dataclass(frozen=True)
class PriorRequest:
    """A bare diffusion prior, at some taps and times.

    Args:
        source: A prior (``mmdiff::NAME``, folder, hub id), or a ``UNet2DModel`` config.
        cfg: Config with the images.
        taps: Names of taps.
        times: Timesteps, or sigmas of a prior that has these.
        unit: ``'timestep'`` or ``'sigma'``: what ``times`` are.
        untrained: Random weights in the place of its own.
        condition: Class that is asked of a class-conditional prior.
    """

    source: str | dict
    cfg: Config
    taps: Sequence[str]
    times: Sequence[float]
    unit: str = 'timestep'
    untrained: bool = False
    condition: int | None = None

    def build(self, images: AnalysisImages, seed: int) -> Subject:
        """Build it.

        Args:
            images: Images of the config.
            seed: Of random weights.

        Raises:
            ValueError: If there is no such tap, or the times are not of the prior.
            FileNotFoundError: If there is no such prior.
        """
        name = self.source if isinstance(self.source, str) else 'prior'
        name = Path(name.removeprefix('mmdiff::')).name
        if not self.times or not self.taps:
            lacks = '--timestep (or --sigma)' if not self.times else '--taps'
            raise ValueError(
                f'The prior {name} needs {lacks}: features depend on the noise level '
                'and on the tap (tools/search_taps.py finds good ones).'
            )
        seed_all(seed)
        backbone = self._backbone().to(get_device()).eval()
        prior = backbone.model
        prior.resolve_taps(list(self.taps))
        layers: list[nn.Module] = []
        for time in self._times():
            prior.check_time(time)
            layers += [PriorTap(backbone, tap, time) for tap in self.taps]
        swap = self._loads_bgr(images)
        about = {
            'kind': 'prior',
            'source': name,
            'untrained': self.untrained,
            'time_unit': prior.time_unit,
            'condition': self.condition,
            'noise': [backbone.noise],
        }
        return Subject(
            f'{name} (untrained)' if self.untrained else name,
            about,
            self._preprocessor(swap, prior.total_stride),
            layers,
            self.cfg.get('default_scope', 'mmdet'),
            digest_model(prior)[:SHORT],
            digest_json([about, swap]),
            backbone.draws_noise,
            images,
        )

    def _times(self) -> list[int | float]:
        """Times, each once; timesteps are whole numbers."""
        times = []
        for time in dict.fromkeys(self.times):
            whole = self.unit == 'timestep' and float(time).is_integer()
            times.append(int(time) if whole else time)
        return times

    def _backbone(self) -> DiffusionUNet:
        """Backbone with all blocks, at the first time; taps and times share it."""
        model: dict[str, Any] = {'source': self.source}
        if self.untrained and isinstance(self.source, str):
            model['random_weights'] = True
        return MODELS.build(
            {
                'type': 'mmdiff.DiffusionUNet',
                'model': model,
                self.unit: self._times()[0],
                'out_indices': (-1,),
                'condition': self.condition,
            }
        )

    def _loads_bgr(self, images: AnalysisImages) -> bool:
        """Whether images come with their channels as BGR.

        Files are read so; arrays of a dataset are as the config's model takes them.
        """
        if images.loads_files:
            return True
        own = self.cfg.get('data_preprocessor') or {}
        own = (self.cfg.get('model') or {}).get('data_preprocessor') or own
        return bool(own.get('to_rgb', own.get('bgr_to_rgb', False)))

    def _preprocessor(self, swap: bool, stride: int) -> nn.Module:
        """Images in [-1, 1], in RGB, padded to the stride for detectors."""
        config: dict[str, Any] = {'mean': MEAN, 'std': MEAN}
        if task_of(self.cfg) == CLASSIFICATION:
            config.update(type='mmpretrain.ClsDataPreprocessor', to_rgb=swap)
        else:
            config.update(
                type='mmdet.DetDataPreprocessor',
                bgr_to_rgb=swap,
                pad_size_divisor=stride,
            )
        return MODELS.build(config).to(get_device())


def task_of(cfg: Config) -> str:
    """Task of a config; one without a model is of its scope's."""
    known = task_of_config(cfg) if cfg.get('model') else None
    if known is None:
        known = (
            CLASSIFICATION if cfg.get('default_scope') == 'mmpretrain' else 'detection'
        )
    return known


def build_subjects(
    requests: Sequence[ModelRequest | PriorRequest],
    images: Sequence[AnalysisImages],
    seed: int,
) -> list[Subject]:
    """Build what is analysed and what it is compared with.

    Raises:
        ValueError: If they have other images or classes, another task, or the same
            weights.
    """
    subjects = []
    for request, own in zip(requests, images):
        scope = request.cfg.get('default_scope', 'mmdet')
        with DefaultScope.overwrite_default_scope(scope):
            subjects.append(request.build(own, seed))
    if len(subjects) < 2:
        return subjects
    first, second = subjects
    if first.identity == second.identity:
        raise ValueError(
            f'{first.name} is compared with itself (the same weights); give another '
            'model, or other layers by --layer.'
        )
    if first.name == second.name:
        second.name += ', compared'
    return subjects
