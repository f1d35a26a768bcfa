"""Images of an analysis: of the training set to fit on, of the test set to measure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS

from mmdiff.utils.digests import digest_json

from ..ground_truth import ground_truth_scale, leaf_pipelines, metainfo_of
from ..tap_search.images import ImageBatches, training_set
from ..training_images import images_of, leaf_of
from .settings import LEAST, AnalysisSettings


class AnalysisImages:
    """Images of a config: both sets are read by the test pipeline.

    Images are drawn at random by the seed; those of the test set are left out of the
    training set, should it have them. With ``fit_from='test'``, images to fit on are
    others of the test set.

    Args:
        cfg: A config with ``test_dataloader`` and, to fit on, ``train_dataloader``.
        settings: Numbers of images, and the seed.

    Raises:
        ValueError: If the config has no such sets, or too few images.
        FileNotFoundError: If data are missing.
    """

    def __init__(self, cfg: Config, settings: AnalysisSettings) -> None:
        from_test = settings.fit_from == 'test'
        if not cfg.get('test_dataloader') or not (
            from_test or cfg.get('train_dataloader')
        ):
            raise ValueError(
                'The config has no train_dataloader and test_dataloader; probes are '
                'fitted on training images, and everything is measured on test images: '
                'give it both, or fit on other test images (--fit-from test).'
            )
        test = cfg.test_dataloader.dataset
        self.config = test.to_dict() if from_test else training_set(cfg)
        size = settings.batch_size or 1
        self.measured = ImageBatches(DATASETS.build(test), size)
        test_names = images_of(self.measured.dataset)
        every = list(range(len(test_names)))
        self.held_out = _draw(every, settings.images, settings.seed, 'test set')
        others = {test_names[i] for i in self.held_out} if from_test else {*test_names}
        self.fitted, where = self.measured, 'rest of the test set'
        if not from_test:
            where = 'training set'
            self.fitted = ImageBatches(DATASETS.build(self.config), size)
        fit_names = test_names if from_test else images_of(self.fitted.dataset)
        kept = [i for i, name in enumerate(fit_names) if name not in others]
        self.left_out = len(fit_names) - len(kept)
        self.fit_from = settings.fit_from
        self.fit = _draw(kept, settings.fit_images, settings.seed, where)
        self.names = (
            [fit_names[i] for i in self.fit],
            [test_names[i] for i in self.held_out],
        )
        self.classes = tuple(metainfo_of(self.measured.dataset).get('classes', ()))
        if not self.classes:
            raise ValueError(
                'The test set does not name its classes; give it metainfo=dict('
                'classes=(...)).'
            )

    @property
    def gt_scale(self) -> str:
        """At which scale a detector's ground truth is."""
        return ground_truth_scale(self.measured.dataset)

    @property
    def loads_files(self) -> bool:
        """Whether images come from files, which are read as BGR."""
        pipelines = leaf_pipelines(self.measured.dataset)
        return all(any('LoadImage' in t for t in names) for _, names in pipelines)

    def digest(self) -> str:
        """Name of the images by folder and file, or pixels: not by where they lie."""
        parts = [['/'.join(Path(n).parts[-2:]) for n in names] for names in self.names]
        return digest_json([parts, self.classes])

    def about(self) -> dict:
        """What a report says of them."""
        leaf = leaf_of(self.config)
        return {
            'type': leaf['type'],
            'classes': list(self.classes),
            'fit_from': self.fit_from,
            'fit': len(self.fit),
            'held_out': len(self.held_out),
            'left_out_of_fit': self.left_out,
            'images': self.digest(),
        }


def _draw(
    numbers: Sequence[int], count: int | None, seed: int, where: str
) -> list[int]:
    """Draw some of the numbers at random; all of them if they are too few."""
    if len(numbers) < LEAST:
        raise ValueError(
            f'The {where} has {len(numbers)} images to take, too few for any of the '
            f'measures; give one with {LEAST} at least.'
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(numbers), generator=generator).tolist()
    return [numbers[i] for i in order[:count]]
