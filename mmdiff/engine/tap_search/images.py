"""Training images of a search: a part to fit probes on, and a part to measure on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.runner import Runner

from mmdiff.attacks.oracle import Oracle
from mmdiff.utils.digests import digest_json

from ..ground_truth import metainfo_of
from ..loops.image_set import ImageSet
from ..training_images import images_of, leaf_of, without_mixing
from .settings import SearchSettings
from .targets import Targets, Task

HELD_OUT_MOST = 256


@dataclass
class Part:
    """Images of one padded size, which are run together.

    Args:
        numbers: Their places in the set that they are of.
        batch: The images as the dataset gives them.
        targets: Their true classes.
    """

    numbers: list[int]
    batch: dict[str, Any]
    targets: Targets


class ImageBatches:
    """Images of a dataset, loaded in batches of one padded size.

    Args:
        dataset: The dataset.
        batch_size: Images of one batch.
    """

    def __init__(self, dataset: Any, batch_size: int) -> None:
        self.dataset, self.batch_size = dataset, batch_size

    @cached_property
    def _set(self) -> ImageSet:
        loader = Runner.build_dataloader(
            dict(
                dataset=self.dataset,
                batch_size=self.batch_size,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=False),
                collate_fn=dict(type='pseudo_collate'),
            )
        )
        return ImageSet(loader, lambda sample: None)

    def parts(self, chosen: Sequence[int], oracle: Oracle, task: Task) -> list[Part]:
        """Load images, by batches of one padded size.

        Args:
            chosen: Numbers of the images in the dataset.
            oracle: Oracle of the model.
            task: Tells the true classes.

        Raises:
            ValueError: If there is no ground truth, or pixel values are not 0..255.
        """
        size = self.batch_size
        starts = range(0, len(chosen), size)
        spans = [chosen[start : start + size] for start in starts]
        parts = []
        for start, batch in zip(starts, self._set.load(spans)):
            group = oracle.gather(batch)
            for places in oracle.split(group, range(len(group.ids))):
                alike = group.take(places)
                data = oracle.preprocess(alike.pixels, alike.samples, alike.frames)
                targets = task.targets(alike.samples, data['inputs'].shape[-2:])
                own = {key: [batch[key][i] for i in places] for key in batch}
                parts.append(Part([start + i for i in places], own, targets))
        return parts


class SearchImages(ImageBatches):
    """Images of the training set, drawn at random, each once, as the test reads them.

    Images that are in the validation or test set, too, are left out: what is chosen on
    these must not be reported on them.

    Args:
        cfg: Config of the model.
        settings: Numbers of images, and the seed.

    Raises:
        ValueError: If the config has no training set, or too few images.
        FileNotFoundError: If data are missing.
    """

    def __init__(self, cfg: Config, settings: SearchSettings) -> None:
        self.config = training_set(cfg)
        dataset = DATASETS.build(self.config)
        names = images_of(dataset)
        taken = self._evaluated_on(cfg)
        kept = [i for i, name in enumerate(names) if name not in taken]
        self.left_out = len(names) - len(kept)
        count = min(settings.indices or len(kept), len(kept))
        held_out = settings.held_out or min(count // 5, HELD_OUT_MOST)
        if held_out < 1 or count - held_out < 2:
            raise ValueError(
                f'Of {len(kept)} training images (without {self.left_out} of the '
                f'validation and test set), --indices takes {count} and --held-out '
                f'{held_out}; give numbers that leave two images to fit on, at least.'
            )
        generator = torch.Generator().manual_seed(settings.seed)
        order = torch.randperm(len(kept), generator=generator)[:count].tolist()
        chosen = [kept[i] for i in order]
        self.fit, self.held_out = chosen[held_out:], chosen[:held_out]
        self.classes = tuple(metainfo_of(dataset).get('classes', ()))
        super().__init__(dataset, settings.batch_size or 1)

    @staticmethod
    def _evaluated_on(cfg: Config) -> set[str]:
        """What tells the images of the validation and the test set."""
        known: set[str] = set()
        seen: list[dict] = []
        for name in ('val_dataloader', 'test_dataloader'):
            loader = cfg.get(name)
            if loader and loader.dataset.to_dict() not in seen:
                seen.append(loader.dataset.to_dict())
                known.update(images_of(DATASETS.build(seen[-1])))
        return known

    def digest(self) -> str:
        """Name of what the images are, and of which are fitted and measured."""
        infos = getattr(self.dataset, 'get_data_info', lambda i: i)
        chosen = [
            [digest_json(infos(i)) for i in part] for part in (self.fit, self.held_out)
        ]
        return digest_json([self.config, chosen])


def training_set(cfg: Config) -> dict:
    """Config of the training images, each once, read by the test pipeline.

    Raises:
        ValueError: If the config has no training set, or no pipeline of a test.
    """
    test = cfg.get('test_dataloader') or cfg.get('val_dataloader')
    if not cfg.get('train_dataloader') or not test:
        raise ValueError(
            'The config has no train_dataloader and test_dataloader; taps are searched '
            'on training images, which are read as those of a test.'
        )
    pipeline = leaf_of(test.dataset.to_dict())['pipeline']
    return without_mixing(cfg.train_dataloader.dataset.to_dict(), pipeline)
