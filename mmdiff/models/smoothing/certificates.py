"""Smoothed boxes of an image, and how far an attack can move them."""

from __future__ import annotations

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from .noisy_detections import NoisyDetections
from .settings import SmoothingSettings
from .slots import sorted_slots


def smoothed_boxes(certified: InstanceData, threshold: float) -> InstanceData:
    """Return the median boxes at a threshold as a detector reports its own.

    Args:
        certified: What :func:`certify` gives.
        threshold: One of its thresholds.

    Returns:
        ``bboxes``, ``scores`` and ``labels``, the highest score first.
    """
    there = certified.bboxes.isfinite().all(1)
    kept = there & (certified.thresholds == threshold)
    scores = certified.scores[kept]
    order = scores.argsort(descending=True, stable=True)
    return InstanceData(
        bboxes=certified.bboxes[kept][order],
        scores=scores[order],
        labels=certified.labels[kept][order],
    )


def certify(
    detections: NoisyDetections, size: tuple[int, int], settings: SmoothingSettings
) -> InstanceData:
    """Take medians and bounds of all slots, at all thresholds and radii.

    Args:
        detections: Of all copies of the image.
        size: Height and width of the image, in pixels of the boxes.
        settings: Thresholds, radii, and how slots are made.

    Returns:
        With one entry for each slot of each threshold: ``thresholds``, (S,);
        ``labels``, (S,); ``bboxes``, (S, 4), and ``scores``, (S,), the medians;
        ``lower`` and ``upper``, (S, R, 4), the bounds of the corners at each radius.
        See :meth:`mmdiff.models.smoothing.slots.Slots.bounds` for infinite ones.
    """
    parts = []
    for threshold in settings.thresholds:
        kept = detections.above(threshold)
        slots = sorted_slots(kept, size, settings.sorting, settings.location_bins)
        boxes, scores = slots.medians()
        bounds = [slots.bounds(ranks) for ranks in settings.ranks]
        part = InstanceData(
            thresholds=_threshold(threshold, len(scores)),
            labels=slots.labels,
            bboxes=boxes,
            scores=scores,
            lower=torch.stack([lower for lower, _ in bounds], 1),
            upper=torch.stack([upper for _, upper in bounds], 1),
        )
        parts.append(part)
    return InstanceData.cat(parts)


def _threshold(threshold: float, count: int) -> Tensor:
    # Not rounded to float32: they are compared with those of the settings.
    return torch.full((count,), threshold, dtype=torch.float64)
