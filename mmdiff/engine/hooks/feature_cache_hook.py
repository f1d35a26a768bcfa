"""Compute the features of a frozen prior once per image, not once per epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from mmdiff.models import AlignedModel, DiffusionUNet
from mmdiff.registry import HOOKS
from mmdiff.utils.modules import unwrap, without_runners

from ..feature_cache import FeatureCache
from ..ground_truth import leaf_pipelines


@HOOKS.register_module()
class FeatureCacheHook(Hook):
    """Keep the features of training images on disk, for the epochs and runs to come.

    Two lines of a config: ``custom_hooks = [dict(type='mmdiff.FeatureCacheHook')]``,
    with ``custom_imports`` of mmdiff. What pays is a training set whose pixels repeat:
    without augmentation or with flips each image has one or two entries; of random
    crops none is ever found again. Where the pipeline flips, the mirror image of a new
    image is computed along: the first epoch takes twice the time, and later ones find
    what else they would compute by and by. Batches of images of several sizes are
    padded to the largest, and each canvas is an entry of its own.

    Testing is never served from the cache, validation if asked.

    Args:
        folder: Where features are kept; models, runs and ranks may share it.
        precision: ``'bf16'`` rounds features; ``'fp32'`` does not, for twice the room.
        max_gb: Limit of the folder, in units of 1e9 bytes; what was read longest ago
            goes first.
        validation: Whether validation takes features from the cache, too.
        flips: Whether to compute mirror images along; by default if the training
            pipeline has ``RandomFlip``.

    Raises:
        ValueError: For settings out of range; before training, if the model has no
            frozen :class:`~mmdiff.models.DiffusionUNet` with noise that stays.

    Example:
        >>> FeatureCacheHook(max_gb=5).max_gb
        5
    """

    def __init__(
        self,
        folder: str | Path = 'work_dirs/feature_cache',
        precision: str = 'bf16',
        max_gb: float = 20.0,
        validation: bool = False,
        flips: bool | None = None,
    ) -> None:
        FeatureCache(folder, precision, max_gb)  # complains now
        self.folder, self.precision, self.max_gb = folder, precision, max_gb
        self.validation, self.flips = validation, flips
        self._flips = False
        self._caches: list[FeatureCache] = []

    def _backbones(self, runner: Runner) -> Iterator[DiffusionUNet]:
        model = without_runners(runner.model)
        aligned = [m.prior for m in model.modules() if isinstance(m, AlignedModel)]
        for module in [*model.modules(), *aligned]:
            if isinstance(module, DiffusionUNet) and module.gives_constant_features:
                yield module

    def before_train(self, runner: Runner) -> None:
        """Make a cache for each backbone.

        Raises:
            ValueError: If there is none that it could be for.
        """
        self._caches = [
            FeatureCache(self.folder, self.precision, self.max_gb)
            for _ in self._backbones(runner)
        ]
        if not self._caches:
            raise ValueError(
                'FeatureCacheHook needs a frozen DiffusionUNet whose noise is fixed or '
                'none: the features of any other change from pass to pass. Remove the '
                'hook, or set frozen=True and noise.'
            )
        self._flips = flips_of(runner) if self.flips is None else self.flips

    def _install(self, runner: Runner, caches: bool) -> None:
        for backbone, cache in zip(self._backbones(runner), self._caches):
            backbone.feature_cache = cache if caches else None

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Let the backbones ask their caches."""
        for cache in self._caches:
            cache.widths = widths_of(data_batch) if self._flips else ()
        self._install(runner, True)

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Let the backbones compute again."""
        self._install(runner, False)

    def before_val_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Let the backbones ask their caches, if wanted."""
        if self.validation:
            self._install(runner, True)

    def after_val_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Let the backbones compute again."""
        self._install(runner, False)

    def after_train_epoch(self, runner: Runner) -> None:
        """Say how much was found."""
        hits = sum(cache.hits for cache in self._caches)
        misses = sum(cache.misses for cache in self._caches)
        runner.logger.info(
            f'features of {hits} images were found, of {misses} computed '
            f'({self.folder})'
        )
        for cache in self._caches:
            cache.hits = cache.misses = 0


def flips_of(runner: Runner) -> bool:
    """Whether images of the training set are flipped by chance, and nothing else."""
    preprocessor = getattr(unwrap(runner.model), 'data_preprocessor', None)
    if getattr(preprocessor, 'batch_augments', None):  # sizes are drawn, say
        return False
    pipelines = leaf_pipelines(runner.train_dataloader.dataset)
    return any('RandomFlip' in names for _, names in pipelines)


def widths_of(data_batch: Any) -> list[int]:
    """Width of each image in a batch of a data loader; none of a batch that has parts.

    A preprocessor pads images on their right, so these are the columns that are theirs.
    """
    inputs = data_batch.get('inputs') if isinstance(data_batch, dict) else None
    if not isinstance(inputs, Tensor | Sequence) or isinstance(inputs, str):
        return []
    return [x.shape[-1] for x in inputs]
