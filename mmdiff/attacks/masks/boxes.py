"""Masks that follow the objects of each image: inside of boxes, and outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmdiff.registry import MASKS

from ..errors import NotApplicable
from ..oracle import Frame
from .base import Mask
from .pixels import inside, is_number


@MASKS.register_module()
@dataclass(frozen=True)
class Boxes(Mask):
    """Pixels inside the ground-truth boxes; an image without objects stays clean.

    A pixel is inside a box if its centre is; a tiny box has a pixel at least, unless it
    was shrunk. Objects that the metric ignores (difficult, crowd) do not count.

    Args:
        grow: By how many pixels of the network's input each side of a box moves
            outwards; below 0 inwards, where boxes may vanish.

    Raises:
        ValueError: If ``grow`` is no finite number.

    Example:
        >>> str(Boxes()), str(Boxes(grow=8)), str(Boxes(grow=-2.5))
        ('boxes', 'boxes+8', 'boxes-2.5')
    """

    grow: float = 0

    def __post_init__(self) -> None:
        if not is_number(self.grow):
            raise ValueError(
                f'grow={self.grow!r} must be a number of pixels by which boxes grow '
                '(8) or shrink (-8).'
            )

    def __str__(self) -> str:
        grow = f'{self.grow:+.12g}' if self.grow else ''
        return type(self).__name__.lower() + grow

    def of(self, frame: Frame, sample: Any) -> Tensor:
        return inside(self._boxes_of(sample), frame, self.grow)

    def _boxes_of(self, sample: Any, ignored: bool = False) -> Tensor:
        """Boxes of an image's objects, (N, 4), on the input.

        Raises:
            NotApplicable: If its ground truth has no boxes.
        """
        objects = sample.get('gt_instances')
        if objects is None or 'bboxes' not in objects:
            raise NotApplicable(
                f"mask='{self}' is about boxes and the ground truth of this model has "
                'none; take a rectangle or a file.'
            )
        boxes, others = objects.bboxes, sample.get('ignored_instances')
        if ignored and others is not None and 'bboxes' in others:
            boxes = torch.cat([boxes, others.bboxes.to(boxes)])
        return boxes


@MASKS.register_module()
@dataclass(frozen=True)
class Background(Boxes):
    """Pixels outside of all ground-truth boxes: attacks on what objects stand in.

    Boxes of objects that the metric ignores are no background either. An image without
    objects is all background.

    Args:
        grow: By how many pixels of the network's input boxes grow, and the background
            keeps away from them; see :class:`Boxes`.

    Example:
        >>> str(Background(grow=8))
        'background+8'
    """

    def of(self, frame: Frame, sample: Any) -> Tensor:
        return ~inside(self._boxes_of(sample, ignored=True), frame, self.grow)
