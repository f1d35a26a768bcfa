"""Positions of a feature map, and what of the images lies at them."""

from collections.abc import Sequence

import torch
from torch import Tensor


def image_cells(
    shapes: Sequence[tuple[int, int]], canvas: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Positions that show an image, not its padding, (N, H, W) of 0 and 1.

    Args:
        shapes: Height and width of each image, at the top left of the canvas.
        canvas: Height and width of the canvas.
        size: Height and width of the map.

    Example:
        >>> image_cells([(4, 2)], (4, 4), (1, 4)).tolist()
        [[[1.0, 1.0, 0.0, 0.0]]]
    """
    boxes = [torch.tensor([[0.0, 0.0, w, h]]) for h, w in shapes]
    return torch.stack([_cells(each, canvas, size) for each in boxes])


def box_cells(
    samples: Sequence, canvas: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Positions that the boxes of objects touch, (N, H, W) of 0 and 1.

    Args:
        samples: Data samples with ``gt_instances.bboxes`` at the scale of the canvas.
        canvas: Height and width of the canvas.
        size: Height and width of the map.

    Raises:
        ValueError: If there are no boxes, as for a classifier.
    """
    if any('gt_instances' not in sample for sample in samples):
        raise ValueError(
            "region='boxes' aligns inside ground-truth boxes and data samples have no "
            "gt_instances; set region='image'."
        )
    boxes = [sample.gt_instances.bboxes for sample in samples]
    boxes = [getattr(each, 'tensor', each) for each in boxes]
    return torch.stack([_cells(each, canvas, size) for each in boxes])


def _cells(boxes: Tensor, canvas: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Positions that any of the boxes touches, (H, W)."""
    scale = boxes.new_tensor(
        [size[1] / canvas[1], size[0] / canvas[0]] * 2, dtype=torch.float32
    )
    x1, y1, x2, y2 = (boxes * scale).T[..., None]
    columns = torch.arange(size[1], device=boxes.device)
    rows = torch.arange(size[0], device=boxes.device)
    across = (columns < x2) & (columns + 1 > x1)
    down = (rows < y2) & (rows + 1 > y1)
    touched = down[:, :, None] & across[:, None, :]
    return touched.any(0).float()
