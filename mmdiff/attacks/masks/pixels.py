"""From boxes to the pixels inside of them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..oracle import Frame


def inside(boxes: Tensor, frame: Frame, grow: float = 0) -> Tensor:
    """Return which pixels of an image have their centre in a box, (H, W), bool.

    Args:
        boxes: (N, 4), x1, y1, x2, y2 on the input.
        frame: The input; what lies outside of its image is left out.
        grow: By how many pixels sides move outwards, below 0 inwards. A box between two
            centres has the pixel that it lies in, unless it was shrunk.
    """
    region = frame.region
    mask = torch.zeros(region.shape, dtype=torch.bool)
    boxes = boxes.detach().cpu().double()
    offset = torch.tensor([region.left, region.top] * 2)
    boxes = boxes - offset + grow * torch.tensor([-1, -1, 1, 1])
    for left, top, right, bottom in boxes.tolist():
        rows = _centres(top, bottom, grow >= 0)
        mask[rows, _centres(left, right, grow >= 0)] = True
    return mask


def _centres(start: float, end: float, one_at_least: bool) -> slice:
    """Numbers of pixels with their centre between two places."""
    # Half to even would take a pixel at one end and not at the other.
    first, last = math.floor(start + 0.5), math.floor(end + 0.5)
    if one_at_least and last <= first:
        first = math.floor((start + end) / 2)
        last = first + 1
    return slice(max(first, 0), max(last, 0))


def is_number(value: Any) -> bool:
    """Whether a setting is a finite number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)
