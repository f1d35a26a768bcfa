"""What a probe is to tell: the class of an image, or of each location of a grid.

Both are locations with classes and weights: an image has one location, or those of a
grid.

A detector's heads must know where objects are and what they are, from the features at
a place. So its probe is a 1x1 convolution that tells the class at each location of a
grid, or that there is none, from boxes of the ground truth. A probe of which classes
are present would get one number per image and class to learn from, and would see pooled
features: it does not notice a tap that knows what is there and not where. The score is
a Jaccard index, as a share of right locations would be high for seeing nothing. Taps of
all strides are brought to one grid, so that their numbers can be compared.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdiff.attacks.oracle.frame import image_region

NOBODY, IGNORED = -1, -2  # owners of locations: the background, and what counts not


@dataclass
class Targets:
    """True classes of images.

    Args:
        labels: Class at each location, (N, L), int64.
        weights: What each counts, (N, L); of each image they add up to 1.
        background: Class of locations without an object; -1: there are none.
    """

    labels: Tensor
    weights: Tensor
    background: int = -1

    def to(self, device: torch.device) -> Targets:
        """Move classes and weights."""
        labels, weights = self.labels.to(device), self.weights.to(device)
        return Targets(labels, weights, self.background)

    def losses(self, logits: Tensor) -> Tensor:
        """Weighted cross-entropy of each image, (N,), in nats.

        Args:
            logits: (N, K, L).
        """
        entropy = F.cross_entropy(logits, self.labels, reduction='none')
        return (self.weights * entropy).sum(1)

    def scores(self, logits: Tensor) -> Tensor:
        """Jaccard index of each image, (N,), 0 to 1 (Jaccard 1912).

        Locations of objects whose class is right, over those of objects and those of
        the background that are taken for an object. Without a background it is the
        share of right classes; without objects the share of background left alone.

        Args:
            logits: (N, K, L).
        """
        told = logits.argmax(1)
        objects = self.labels != self.background
        mistaken = ~objects & (told != self.background)
        right = (self.weights * (objects & (told == self.labels))).sum(1)
        total = (self.weights * objects).sum(1)
        false = (self.weights * mistaken).sum(1)
        return torch.where(total > 0, right / (total + false), 1 - false)


class Task(ABC):
    """How images of one task are probed.

    Args:
        num_classes: Classes of the dataset.
    """

    name: ClassVar[str]
    metric: ClassVar[str]
    probe: ClassVar[str]

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    @property
    def num_outputs(self) -> int:
        """Logits of the probe at a location."""
        return self.num_classes

    @abstractmethod
    def grid_of(self, shape: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of locations of a canvas, (H, W)."""

    @abstractmethod
    def targets(self, samples: Sequence[Any], shape: Sequence[int]) -> Targets:
        """True classes of images, on the CPU.

        Args:
            samples: Data samples, with ground truth at the scale of the input.
            shape: Height and width of the canvas.

        Raises:
            ValueError: If there is none, or a class that the dataset has not.
        """

    def check_labels(self, labels: Tensor) -> None:
        """Complain about a class that the dataset does not name.

        Raises:
            ValueError: If so.
        """
        if labels.numel() and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise ValueError(
                f'A training image has the class {int(labels.max())}, and the dataset '
                f'names {self.num_classes} classes; give it the metainfo of its labels.'
            )


class ImageClasses(Task):
    """The class of an image, from the mean of its features."""

    name = 'classification'
    metric = 'accuracy'
    probe = 'multinomial logistic regression on pooled features'

    def grid_of(self, shape: Sequence[int]) -> tuple[int, int]:
        return 1, 1

    def targets(self, samples: Sequence[Any], shape: Sequence[int]) -> Targets:
        labels = torch.stack([sample.gt_label.reshape(1) for sample in samples]).cpu()
        self.check_labels(labels)
        return Targets(labels, torch.ones(labels.shape))


class LocationClasses(Task):
    """The class at each location, or none, from the features there.

    A location is of the smallest box around its centre, and an object that has none
    takes the one at its own centre. Half of the weight of an image goes to its objects,
    alike whatever their size, and half to the background; padding and ignored objects
    count nothing.

    Args:
        num_classes: Classes of the dataset.
        stride: Pixels between locations.
    """

    name = 'detection'
    metric = 'Jaccard index of classes at locations'
    probe = 'multinomial logistic regression (1x1 convolution), classes at locations'

    def __init__(self, num_classes: int, stride: int) -> None:
        super().__init__(num_classes)
        self.stride = stride

    @property
    def num_outputs(self) -> int:
        return self.num_classes + 1

    def grid_of(self, shape: Sequence[int]) -> tuple[int, int]:
        return max(1, shape[0] // self.stride), max(1, shape[1] // self.stride)

    def targets(self, samples: Sequence[Any], shape: Sequence[int]) -> Targets:
        each = [self._of_image(sample, shape) for sample in samples]
        labels, weights = zip(*each)
        background = self.num_classes
        return Targets(torch.stack(labels), torch.stack(weights), background)

    def _of_image(self, sample: Any, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Classes and weights of the locations of one image, (L,) each."""
        objects = sample.gt_instances
        if 'bboxes' not in objects or 'labels' not in objects:
            raise ValueError(
                'The training images have no boxes with classes; add '
                'LoadAnnotations(with_bbox=True) to the test pipeline.'
            )
        self.check_labels(objects.labels)
        owners = self._owners(sample, shape).flatten()
        labels = torch.full(owners.shape, self.num_classes)
        owned = owners >= 0
        labels[owned] = objects.labels.cpu().long()[owners[owned]]
        weights = (owners == NOBODY).float()
        numbers = owners[owned].unique()
        has_both = bool(len(numbers)) and bool(weights.any())
        weights /= weights.sum().clamp(min=1) * (2 if has_both else 1)
        for number in numbers:
            mine = owners == number
            share = (0.5 if has_both else 1.0) / len(numbers)
            weights[mine] = share / mine.sum()
        return labels, weights

    def _owners(self, sample: Any, shape: Sequence[int]) -> Tensor:
        """Number of the object that each location is of, (rows, columns)."""
        rows, columns = self.grid_of(shape)
        y = (torch.arange(rows) + 0.5) * shape[0] / rows
        x = (torch.arange(columns) + 0.5) * shape[1] / columns
        meta = sample.metainfo
        region = image_region(meta, tuple(meta['img_shape'][:2]))
        owners = torch.full((rows, columns), IGNORED)
        inside_y = (y >= region.top) & (y < region.top + region.height)
        inside_x = (x >= region.left) & (x < region.left + region.width)
        owners[inside_y[:, None] & inside_x] = NOBODY
        if 'bboxes' in sample.get('ignored_instances', {}):
            for box in sample.ignored_instances.bboxes.cpu():
                owners[_inside(box, y, x)] = IGNORED
        boxes = sample.gt_instances.bboxes.cpu()
        sizes = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        order = sizes.argsort(descending=True).tolist()
        for number in order:
            owners[_inside(boxes[number], y, x)] = number
        for number in order:
            if not (owners == number).any():
                middle = (boxes[number, :2] + boxes[number, 2:]) / 2
                row, column = (y - middle[1]).abs().argmin(), (x - middle[0]).abs()
                owners[row, column.argmin()] = number
        return owners


def _inside(box: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Which locations have their centre in a box (x1, y1, x2, y2), (rows, columns)."""
    left, top, right, bottom = box
    return ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))


def to_grid(feature: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bring a feature map, (N, C, H, W), to a grid: means, or between the values."""
    height, width = feature.shape[-2:]
    if (height, width) == grid:
        return feature
    if height >= grid[0] and width >= grid[1]:
        return F.adaptive_avg_pool2d(feature, grid)
    return F.interpolate(feature, grid, mode='bilinear', align_corners=False)
