"""Images of a test set, loaded in order and in batches of one's choice."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mmdiff.utils.digests import digest_file, digest_json
from mmdiff.utils.modules import unwrap


def is_empty(dataloader: DataLoader | dict) -> bool:
    """Whether a test set has no images; it may be one that cannot be built for that."""
    dataset = dataloader['dataset'] if isinstance(dataloader, dict) else None
    if dataset is None:
        return len(dataloader.dataset) == 0
    if isinstance(dataset, dict):
        dataset = DATASETS.build(_unpacked(dataset))
    return len(dataset) == 0


def _unpacked(dataset: dict) -> dict:
    """Config of a dataset that does not pack its annotations: none cannot be packed."""
    if 'datasets' in dataset:
        return {**dataset, 'datasets': [_unpacked(d) for d in dataset['datasets']]}
    if 'dataset' in dataset:
        return {**dataset, 'dataset': _unpacked(dataset['dataset'])}
    return {**dataset, 'serialize_data': False}


def _digest_image(info: dict) -> str:
    """Name the bytes of an image's file; empty if it is not in the file system."""
    path = Path(info.get('img_path') or '')
    return digest_file(path) if path.is_file() else ''


def image_names(images: ImageSet) -> list[str | int]:
    """Id of each image; of a dataset without ids, name of its file, else its number.

    Files of one name in several folders, as classes have them, are named with these.
    """
    infos = [images.sample(i).metainfo for i in range(len(images))]
    paths = [Path(info.get('img_path') or str(i)) for i, info in enumerate(infos)]
    unique = len({path.name for path in paths}) == len(paths)
    names: list[str | int] = []
    for i, (info, path) in enumerate(zip(infos, paths)):
        name = info.get('img_id')
        if name is None and 'img_path' in info:
            name = path.name if unique else '/'.join(path.parts[-2:])
        name = i if name is None else name
        names.append(name if isinstance(name, str) else int(name))
    return names


class ImageSet:
    """Images of a test set, in order, and their data samples.

    Args:
        dataloader: Dataloader of the test set.
        lighten: Takes off a data sample what is not to be kept in memory
            (:meth:`mmdiff.evaluation.scoring.Scorer.lighten`).
        count: Take the first images only, of any dataset or wrapper; ``None`` is all.
    """

    def __init__(
        self,
        dataloader: DataLoader,
        lighten: Callable[[Any], None],
        count: int | None = None,
    ) -> None:
        self.dataloader = dataloader
        self.lighten = lighten
        self.dataset = dataloader.dataset
        self.batch_size = dataloader.batch_size or 1
        self._count = len(self.dataset) if count is None else count
        self._samples: dict[int, Any] = {}

    def __len__(self) -> int:
        return min(self._count, len(self.dataset))

    def spans(self, num_images: int) -> list[range]:
        """Numbers of the first images, by batches."""
        starts = range(0, num_images, self.batch_size)
        return [range(k, min(k + self.batch_size, num_images)) for k in starts]

    def count_whole_batches(self, num_images: int) -> int:
        """Round up to whole batches: an image is padded to what is beside it."""
        batches = math.ceil(num_images / self.batch_size)
        return min(len(self), batches * self.batch_size)

    def load(self, spans: Sequence[Sequence[int]]) -> Iterable[dict]:
        """Batches of exactly these images, loaded as the dataloader would."""
        loader = self.dataloader
        return DataLoader(
            self.dataset,
            batch_sampler=[list(span) for span in spans],
            num_workers=min(loader.num_workers, len(spans)),
            collate_fn=loader.collate_fn,
            worker_init_fn=loader.worker_init_fn,
            pin_memory=loader.pin_memory,
        )

    def sample(self, index: int) -> Any:
        """The dataset's own data sample, with its ground truth, on the CPU."""
        if index not in self._samples:
            self.remember(index, self.dataset[index]['data_samples'])
        return self._samples[index]

    def remember(self, index: int, sample: Any) -> None:
        """Keep an image's sample as it was loaded."""
        if index in self._samples:
            return
        sample = copy.deepcopy(sample).cpu()
        self.lighten(sample)
        self._samples[index] = sample

    def digests(self, numbers: Iterable[int] | None = None) -> list[str] | None:
        """Names of images: of their annotations, and of the bytes of their files.

        Args:
            numbers: Numbers of the images; ``None``: all.

        Returns:
            ``None`` if the dataset tells no annotations.
        """
        infos = self._infos(numbers)
        if infos is None:
            return None
        return [digest_json([info, _digest_image(info)]) for info in infos]

    def ids(self) -> list | None:
        """Ids of the images; ``None`` if the dataset does not tell them."""
        ids = [info.get('img_id') for info in self._infos() or [{}]]
        return None if None in ids else ids

    def _infos(self, numbers: Iterable[int] | None = None) -> list[dict] | None:
        """Annotations of images, of all or some; ``None`` if the dataset tells none."""
        numbers = range(len(self)) if numbers is None else numbers
        try:
            return [self.dataset.get_data_info(i) for i in numbers]
        except AttributeError:  # a wrapper, or what is inside, has no such method
            return None

    def count_on_larger_canvas(self, model: nn.Module) -> int:
        """Images that are predicted on a larger canvas than they are attacked on.

        They pad to less than their batch: they are attacked at their own padded size,
        and predicted at the batch's.
        """
        preprocessor = unwrap(model).data_preprocessor
        divisor, count = getattr(preprocessor, 'pad_size_divisor', 1) or 1, 0
        for span in self.spans(len(self)):
            shapes = [self.sample(i).metainfo.get('img_shape', (0, 0)) for i in span]
            sizes = [tuple(-(-side // divisor) for side in s[:2]) for s in shapes]
            canvas = tuple(map(max, zip(*sizes)))
            count += sum(size != canvas for size in sizes)
        return count


def count_on_larger_canvas(images: ImageSet, runner: Runner) -> int:
    """Count as :meth:`ImageSet.count_on_larger_canvas` does, and say so in the log."""
    count = images.count_on_larger_canvas(runner.model)
    if count:
        runner.logger.warning(
            f'{count} of {len(images)} images pad to less than their batch: they are '
            'predicted on a larger canvas than they are attacked on. With '
            'test_dataloader.batch_size=1 both are the same.'
        )
    return count
