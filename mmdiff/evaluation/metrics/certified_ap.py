"""Average precision that no attack within a radius can take away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric

from mmdiff.registry import METRICS

from ..certified_boxes import BoxCount, CountTable, count_boxes, worst_iou
from ..uncertainty import Bootstrap

# Settings of the smoothing that are repeated beside the results.
REPEATED = ('sigma', 'num_copies', 'alpha', 'noise_seed')


@dataclass
class ImageCounts:
    """What is counted on one image; the first row is that of the medians.

    Args:
        objects: Objects that count.
        true: True boxes, at least, (1 + R, T).
        reported: Boxes that count as reported, at most, (1 + R, T).
        medians: Boxes that are reported at the lowest threshold.
        abstained: Those of them without a certificate, at each radius, (R,).
        smoothing: Settings of the smoothing.
    """

    objects: int
    true: np.ndarray
    reported: np.ndarray
    medians: int
    abstained: np.ndarray
    smoothing: dict


@METRICS.register_module()
class CertifiedAP(BaseMetric):
    """Smoothed and certified average precision of a :class:`SmoothedDetector`.

    A box is certified true if it cannot vanish, its label cannot change, and the worst
    IoU of all boxes within the bounds of its corners is at least ``iou_thr``. At each
    threshold of the score, certified recall is the number of objects with a certified
    true box of their own over that of all objects, and certified precision that number
    over the number of all boxes that *may* appear under attack (those with a finite
    lower bound); both are those of all classes together, as in the code of Chiang et
    al. 2020. Certified AP is the area below the curve through the thresholds, of
    precision at this or a higher recall. The paper takes its area from five thresholds,
    too; how is not in its code. So this is not the mean over classes of ``VOCMetric``:
    compare it with ``smoothed_ap``, which is the same of the medians.

    Difficult objects, or crowds, count neither as objects nor against boxes on them.

    Values are fractions: ``smoothed_ap``; for each radius ``ap_RADIUS``,
    ``recall_RADIUS`` (at the lowest threshold) and ``abstained_RADIUS`` (share of the
    boxes reported at the lowest threshold that have no certificate); ``_low`` and
    ``_high`` of all AP, a bootstrap interval over images, and the settings of the
    smoothing.

    Args:
        iou_thr: IoU from which a box is true.
        level: Share of the draws of images inside an interval.

    Raises:
        ValueError: If ``iou_thr`` or ``level`` is no fraction.

    Example:
        >>> CertifiedAP(iou_thr=0.5).default_prefix
        'certified'
    """

    default_prefix = 'certified'

    def __init__(
        self,
        iou_thr: float = 0.5,
        level: float = 0.95,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix)
        for name, value in (('iou_thr', iou_thr), ('level', level)):
            if not 0 < value < 1:
                raise ValueError(f'{name}={value} must be above 0 and below 1.')
        self.iou_thr, self.bootstrap = iou_thr, Bootstrap(level=level)

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        """Count the boxes of every image.

        Raises:
            ValueError: If predictions are not those of a smoothed detector, or it tells
                other classes than the set has.
        """
        for sample in data_samples:
            if 'certified_instances' not in sample:
                raise ValueError(
                    'CertifiedAP reads the bounds of smoothed boxes, and there are '
                    "none; wrap the model in dict(type='mmdiff.SmoothedDetector', ...)."
                )
            self.results.append(self._count(sample))

    def _count(self, sample: dict) -> ImageCounts:
        slots = {k: _numpy(v) for k, v in sample['certified_instances'].items()}
        smoothing = slots.pop('smoothing')
        self._check_classes(slots['labels'])
        truths = [sample['gt_instances'], sample.get('ignored_instances') or {}]
        boxes = [_boxes(truth) for truth in truths]
        objects = np.concatenate(boxes)
        labels = np.concatenate([_numpy(t.get('labels', [])) for t in truths])
        ignored = np.repeat([False, True], [len(part) for part in boxes])
        same = slots['labels'][:, None] == labels
        rows = []
        for low, high in _rows(slots):
            overlaps, may_be = worst_iou(low, high, objects), np.isfinite(low).all(1)
            row = []
            for threshold in smoothing['thresholds']:
                at = may_be & (slots['thresholds'] == threshold)
                row.append(count_boxes(overlaps, at, same, ignored, self.iou_thr))
            rows.append(row)
        there = np.isfinite(slots['bboxes']).all(1)
        there &= slots['thresholds'] == min(smoothing['thresholds'])
        unsure = ~np.isfinite(slots['upper']).all(2)
        return ImageCounts(
            int((~ignored).sum()),
            _field(rows, 'true'),
            _field(rows, 'reported'),
            int(there.sum()),
            (unsure & there[:, None]).sum(0),
            smoothing,
        )

    def _check_classes(self, labels: np.ndarray) -> None:
        known = len((self.dataset_meta or {}).get('classes', ()))
        if known and len(labels) and labels.max() >= known:
            raise ValueError(
                f'The detector reports class {labels.max()}, and the set has {known} '
                'classes; set num_classes of its head to that of the set.'
            )

    def compute_metrics(self, results: list[ImageCounts]) -> dict[str, float]:
        """Give AP, recall and abstentions over all images.

        Raises:
            ValueError: If images were smoothed with different settings.
        """
        smoothing = results[0].smoothing
        if any(one.smoothing != smoothing for one in results):
            raise ValueError(
                'Images were smoothed with different settings, and have no metric in '
                'common; test them by one model.'
            )
        metrics = self._ap('smoothed_ap', results, 0)
        lowest = int(np.argmin(smoothing['thresholds']))
        objects = sum(one.objects for one in results)
        medians = sum(one.medians for one in results)
        for number, radius in enumerate(smoothing['radii']):
            metrics.update(self._ap(f'ap_{radius:g}', results, number + 1))
            true = sum(one.true[number + 1, lowest] for one in results)
            unsure = sum(one.abstained[number] for one in results)
            metrics[f'recall_{radius:g}'] = _share(true, objects)
            metrics[f'abstained_{radius:g}'] = _share(unsure, medians)
        for name in REPEATED:
            metrics[name] = smoothing[name]
        return metrics

    def _ap(self, name: str, results: list[ImageCounts], row: int) -> dict[str, float]:
        """AP of one row with its interval."""
        count = len(results)
        table = CountTable(
            np.stack([one.true[row] for one in results]),
            np.stack([one.reported[row] for one in results]),
            np.array([one.objects for one in results]),
        )
        value = float(table.resampled(np.ones((1, count)))[0])
        interval = self.bootstrap.interval(self.bootstrap.values(table, count), value)
        if value in (0, 1):  # all draws are alike, and say nothing
            interval = self.bootstrap.interval_of_alike(value, count)
        low, high = interval or (float('nan'), float('nan'))
        return {name: value, f'{name}_low': low, f'{name}_high': high}


def _rows(slots: Mapping[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Bounds of the medians themselves, and those at each radius."""
    bounds = [(slots['bboxes'], slots['bboxes'])]
    for radius in range(slots['lower'].shape[1]):
        bounds.append((slots['lower'][:, radius], slots['upper'][:, radius]))
    return bounds


def _field(rows: list[list[BoxCount]], name: str) -> np.ndarray:
    return np.array([[getattr(count, name) for count in row] for row in rows])


def _numpy(values: Any) -> Any:
    """Tensors as arrays, floats as exact as they are; all else as it is."""
    if hasattr(values, 'cpu'):
        values = values.cpu().numpy()
        return values.astype(float) if values.dtype.kind == 'f' else values
    return np.array(values, int) if isinstance(values, list) else values


def _boxes(truth: Mapping[str, Any]) -> np.ndarray:
    boxes = truth.get('bboxes')
    boxes = getattr(boxes, 'tensor', boxes)
    return np.zeros((0, 4)) if boxes is None else _numpy(boxes).reshape(-1, 4)


def _share(part: int, whole: int) -> float:
    return float(part / whole) if whole else float('nan')
