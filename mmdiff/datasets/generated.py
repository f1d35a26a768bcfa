"""Labelled images of a prior, and batches that mix them with real ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.dataset import BaseDataset, ConcatDataset

from mmdiff.registry import DATA_SAMPLERS, DATASETS

ORDERS = ('bgr', 'rgb')
ADVICE = (
    'draw them by tools/sample_images.py from a class-conditional prior, which puts '
    'them into folders 00, 01, ... of classes or gives labels to an .npz'
)


@DATASETS.register_module()
class GeneratedDataset(BaseDataset):
    """What ``tools/sample_images.py`` drew from a class-conditional prior.

    The class of an image is the one that the prior was asked for: the number of its
    folder, or its label in the ``.npz`` (the format of DM-Improves-AT). Images come
    loaded, so the pipeline has no ``LoadImageFromFile``.

    Args:
        data_root: The folder, or the ``.npz`` file.
        pipeline: Transforms of the images, as of any dataset of mmpretrain.
        channel_order: ``'bgr'``, as mm packages load files; ``'rgb'`` beside datasets
            with pixels of their own, as mmpretrain's CIFAR10.
        metainfo: With ``classes``, if they have names.
        unlabelled: Take images without labels as well, as of the class -1: for
            ``tools/filter_images.py``, which labels them.

    Raises:
        FileNotFoundError: If there is no such folder or file.
        ValueError: If images have no labels, or there are none.
    """

    def __init__(
        self,
        data_root: str | Path,
        pipeline: Sequence = (),
        channel_order: str = 'bgr',
        metainfo: dict | None = None,
        unlabelled: bool = False,
        **kwargs: Any,
    ) -> None:
        self.unlabelled = unlabelled
        if channel_order not in ORDERS:
            raise ValueError(
                f'channel_order={channel_order!r} must be one of {ORDERS}.'
            )
        self.channel_order = channel_order
        self.images: np.ndarray | None = None
        super().__init__(
            data_root=str(data_root),
            pipeline=list(pipeline),
            metainfo=metainfo,
            serialize_data=True,
            **kwargs,
        )

    def load_data_list(self) -> list[dict]:
        """List the images with their classes."""
        root = Path(self.data_root).expanduser()
        if not root.exists():
            raise FileNotFoundError(f'There are no images at {root}; {ADVICE}.')
        if root.suffix == '.npz':
            items = self._packed(root)
        else:
            items = _in_folders(root, self.unlabelled)
        if not items:
            raise ValueError(f'{root} has no image in a folder of a class; {ADVICE}.')
        self._check_labels(items, root)
        return items

    def listed(self, idx: int) -> dict:
        """Return what is known of one image without its pixels."""
        return super().get_data_info(idx)

    def get_data_info(self, idx: int) -> dict:
        """Return one image, (H, W, 3) uint8, its class and its sizes."""
        info = self.listed(idx)
        if self.images is None:
            image = mmcv.imread(info['img_path'], channel_order=self.channel_order)
        else:
            image = self.images[info['number']]
            image = image[..., ::-1] if self.channel_order == 'bgr' else image
        shape = image.shape[:2]
        return {**info, 'img': image.copy(), 'img_shape': shape, 'ori_shape': shape}

    def _packed(self, path: Path) -> list[dict]:
        """List what is in an ``.npz``, and keep its pixels."""
        needed = {'image'} if self.unlabelled else {'image', 'label'}
        with np.load(path) as file:  # no pickles
            if not needed <= set(file.files):
                raise ValueError(f'{path} has no image and label; {ADVICE}.')
            self.images = file['image']
            labels = [-1] * len(self.images)
            if 'label' in file.files:
                labels = file['label'].tolist()
        return [
            {'img_path': f'{path}#{i}', 'number': i, 'gt_label': label}
            for i, label in enumerate(labels)
        ]

    def _check_labels(self, items: list[dict], root: Path) -> None:
        """Complain about classes beyond those that have names.

        Raises:
            ValueError: If there are some.
        """
        classes = self.metainfo.get('classes')
        highest = max(item['gt_label'] for item in items)
        if classes and highest >= len(classes):
            raise ValueError(
                f'{root} has images of class {highest} and the real images have '
                f'{len(classes)} classes; take a prior of these classes.'
            )


def _in_folders(root: Path, unlabelled: bool) -> list[dict]:
    """List the images in folders whose names are numbers of classes.

    Raises:
        ValueError: If there are images outside of such folders.
    """
    folders = [path for path in root.iterdir() if path.is_dir() and path.name.isdigit()]
    outside = sorted(root.glob('*.png'))
    if outside and unlabelled and not folders:
        return [{'img_path': str(path), 'gt_label': -1} for path in outside]
    if outside:
        raise ValueError(f'The images in {root} have no labels; {ADVICE}.')
    return [
        {'img_path': str(path), 'gt_label': int(folder.name)}
        for folder in sorted(folders)
        for path in sorted(folder.glob('*.png'))
    ]


@DATASETS.register_module()
class MixedDataset(ConcatDataset):
    """Real images, and behind them generated ones.

    Take it with :class:`MixedBatchSampler`, which keeps their ratio in each batch.

    Args:
        real: Dataset of real images, or its config.
        generated: :class:`GeneratedDataset` or another one, or its config; without
            ``metainfo`` of its own it has that of the real images.

    Raises:
        ValueError: If the classes are not the same.
    """

    def __init__(self, real: dict | BaseDataset, generated: dict | BaseDataset) -> None:
        if isinstance(real, dict):
            real = DATASETS.build(real)
        if isinstance(generated, dict):
            generated = DATASETS.build({'metainfo': real.metainfo, **generated})
        classes = [each.metainfo.get('classes') for each in (real, generated)]
        if all(classes) and tuple(classes[0]) != tuple(classes[1]):
            raise ValueError(
                f'The real images have the classes {", ".join(classes[0])} and the '
                f'generated ones {", ".join(classes[1])}; give both the same.'
            )
        super().__init__(
            [real, generated], ignore_keys=[*real.metainfo, *generated.metainfo]
        )

    @property
    def num_real(self) -> int:
        """Number of real images, which come first."""
        return len(self.datasets[0])


@DATA_SAMPLERS.register_module()
class MixedBatchSampler:
    """Batches with a fixed share of real images, as in DM-AT (Wang et al. 2023).

    Real and generated images are each shuffled and gone through, over the ends of
    epochs; an epoch has as many images as there are real ones. All follows from seed
    and epoch of the sampler: a resumed training draws the same.

    A config's ``batch_sampler``: ``dict(type='mmdiff.MixedBatchSampler',
    real_ratio=0.3)`` beside ``sampler=dict(type='DefaultSampler', shuffle=True)``.

    Args:
        sampler: mmengine's ``DefaultSampler`` of a :class:`MixedDataset`, for its seed,
            epoch and rank.
        batch_size: Images in each batch.
        real_ratio: Share of real ones, rounded to whole images.

    Raises:
        ValueError: If the share is not within 0..1 or leaves no image of a kind, or for
            another dataset.
    """

    def __init__(self, sampler: Any, batch_size: int, real_ratio: float) -> None:
        if not 0 <= real_ratio <= 1:
            raise ValueError(
                f'real_ratio={real_ratio} is no share; give a number of 0 (generated '
                'images alone) to 1 (real ones alone).'
            )
        if not isinstance(sampler.dataset, MixedDataset):
            raise ValueError(
                'MixedBatchSampler mixes the two parts of a mmdiff.MixedDataset, not '
                f'images of {type(sampler.dataset).__name__}; set dataset=dict('
                "type='mmdiff.MixedDataset', real=..., generated=...)."
            )
        self.sampler, self.batch_size = sampler, batch_size
        self.real = round(batch_size * real_ratio)
        if self.real in (0, batch_size) and 0 < real_ratio < 1:
            raise ValueError(
                f'real_ratio={real_ratio} of a batch of {batch_size} is {self.real} '
                'images; take larger batches, or a share of 0 or 1.'
            )

    def __len__(self) -> int:
        total = self.batch_size * self.sampler.world_size
        return -(-self.sampler.dataset.num_real // total)

    def __iter__(self) -> Iterator[list[int]]:
        dataset = self.sampler.dataset
        first = dataset.num_real
        counts = self.real, self.batch_size - self.real
        streams = [
            self._stream(first, counts[0], 0),
            self._stream(len(dataset) - first, counts[1], first),
        ]
        for _ in range(len(self)):
            yield [next(streams[0]) for _ in range(counts[0])] + [
                next(streams[1]) for _ in range(counts[1])
            ]

    def _stream(self, size: int, count: int, offset: int) -> Iterator[int]:
        """Go through the images of one kind, shuffled anew in each round.

        Args:
            size: Number of images of the kind.
            count: Of them in a batch.
            offset: Number of the first.
        """
        ranks, rank = self.sampler.world_size, self.sampler.rank
        # Where the epochs before have left off, all ranks together.
        place = self.sampler.epoch * len(self) * count * ranks + rank
        shuffled, order = -1, torch.empty(0)
        while True:
            if place // size != shuffled:
                shuffled = place // size
                # One number for the kind and the round.
                seed = self.sampler.seed + 2 * shuffled + (offset > 0)
                generator = torch.Generator().manual_seed(seed)
                order = torch.randperm(size, generator=generator)
            yield offset + int(order[place % size])
            place += ranks
