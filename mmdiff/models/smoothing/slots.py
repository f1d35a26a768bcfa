"""From lists of detections to vectors of fixed length: bins, sorted, padded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .noisy_detections import NoisyDetections
from .order_statistics import Ranks

SORTINGS = ('location', 'score')


@dataclass
class Slots:
    """Places of the vector that a detector's output is made into, over all copies.

    Args:
        labels: Class of each slot, (S,): that of its bin.
        coordinates: x1, y1, x2, y2 in each copy, each sorted over the copies by
            itself, infinite where copies have no such detection, (S, 4, N).
        scores: Score in each copy, sorted, 0 where there is none, (S, N).
    """

    labels: Tensor
    coordinates: Tensor
    scores: Tensor

    @property
    def _middle(self) -> int:
        # Of an even number the upper one: what half of the copies lack is not there.
        return self.scores.shape[1] // 2

    def medians(self) -> tuple[Tensor, Tensor]:
        """Median boxes, (S, 4), infinite where there is none, and scores, (S,)."""
        return self.coordinates[..., self._middle], self.scores[:, self._middle]

    def bounds(self, ranks: Ranks) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds of the coordinates, (S, 4) each.

        An infinite upper bound: the box may be missing under attack. An infinite lower
        bound: no attack makes it appear.
        """
        chosen = self.coordinates[..., [ranks.lower - 1, ranks.upper - 1]]
        return chosen[..., 0], chosen[..., 1]


def sorted_slots(
    detections: NoisyDetections,
    size: tuple[int, int],
    sorting: str = 'location',
    location_bins: int = 3,
) -> Slots:
    """Sort the detections of all copies into slots.

    In each copy, the detections of one class whose centres lie in one cell of a grid
    on the image are sorted by ``sorting``, and the k-th of them is the k-th slot of
    this bin (Chiang et al. 2020, section 5: sorting and binning). Slots are those that
    any copy fills.

    Args:
        detections: Of all copies.
        size: Height and width of the image, in pixels of the boxes.
        sorting: ``'location'``: by the centre from left to right, then downwards.
            ``'score'``: the highest first.
        location_bins: Cells of the grid along each side; 1: bins are classes alone.
    """
    centres = (detections.bboxes[:, :2] + detections.bboxes[:, 2:]) / 2
    sides = torch.tensor([size[1], size[0]], dtype=centres.dtype)
    cells = (centres / sides * location_bins).floor().long()
    cells = cells.clamp(0, location_bins - 1)
    cell = cells[:, 1] * location_bins + cells[:, 0]
    bins = detections.labels * location_bins**2 + cell
    keys = [centres[:, 0], centres[:, 1]]
    if sorting == 'score':
        keys = [-detections.scores, *keys]
    order = _lexsort([detections.copy, bins, *keys])
    place = _places(detections.copy[order], bins[order])
    names = torch.stack([bins[order], place], 1)
    slots, slot = torch.unique(names, dim=0, return_inverse=True)
    shape = (len(slots), detections.copies)
    boxes = torch.full((*shape, 4), torch.inf)
    scores = torch.zeros(shape)
    boxes[slot, detections.copy[order]] = detections.bboxes[order]
    scores[slot, detections.copy[order]] = detections.scores[order]
    labels = slots[:, 0] // location_bins**2
    return Slots(labels, boxes.mT.sort(-1).values, scores.sort(-1).values)


def _lexsort(keys: list[Tensor]) -> Tensor:
    """Order by the first key, then the second, and so on."""
    order = torch.arange(len(keys[0]))
    for key in reversed(keys):
        order = order[key[order].argsort(stable=True)]
    return order


def _places(copy: Tensor, bins: Tensor) -> Tensor:
    """Number the members of each bin of each copy from 0, all in order."""
    numbers = torch.arange(len(bins))
    if len(bins) == 0:
        return numbers
    new = torch.ones(len(bins), dtype=torch.bool)
    new[1:] = (copy[1:] != copy[:-1]) | (bins[1:] != bins[:-1])
    return numbers - torch.where(new, numbers, 0).cummax(0).values
