"""What an attack broke: objects lost, moved, called wrongly, and false ones.

The kinds are those of TIDE (Bolya et al. 2020, IoU 0.1 and 0.5), counted by object as
armory's metrics of object detection do: true positive, misclassification and
disappearance rate, and hallucinations per image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from mmdet.evaluation.functional import bbox_overlaps

from ..account import Broke
from ..evaluations import mean_of_known
from ..image_tables import ApTable
from ..uncertainty import Bootstrap

# Detections below it are not shown to people; mmdet draws them from 0.3.
SCORE_THRESHOLD = 0.3
HIT, NEAR = 0.5, 0.1  # IoU
KINDS = 'right', 'wrong_class', 'moved', 'lost'
RIGHT, WRONG_CLASS, MOVED, LOST = range(4)


def count_broken(
    evaluations: Sequence[Sequence[Mapping]],
    truths: Sequence[Mapping[str, np.ndarray]],
    voc_boxes: bool,
    any_class: Sequence[ApTable | None],
) -> Broke:
    """Count what became of each object, on average over evaluations.

    Args:
        evaluations: ``bboxes``, ``scores``, ``labels`` of each image, on the CPU, in
            each of several passes over the same images.
        truths: ``bboxes``, ``labels``, ``bboxes_ignore`` of each image.
        voc_boxes: A box from 0 to 9 is 10 wide, as VOCMetric has it.
        any_class: For each evaluation the table of the AP when all classes are one;
            ``None`` without objects.
    """
    measured = _Measured(
        [
            _Counts.of(predictions, truths, voc_boxes, table)
            for predictions, table in zip(evaluations, any_class)
        ]
    )
    first = measured.parts[0].kinds
    once = measured.resampled(np.ones((1, len(first))))
    values = {name: float(of_all[0]) for name, of_all in once.items()}
    known = {name: v for name, v in values.items() if not np.isnan(v)}
    shares = {name: known.pop(name, 0.0) for name in KINDS}
    return Broke(
        score_threshold=SCORE_THRESHOLD,
        objects=int(first.sum()),
        **shares,
        false_per_image=known['false_per_image'],
        mean_iou=known.get('mean_iou'),
        any_class_ap=known.get('any_class_ap'),
        intervals=measured.intervals(values),
    )


@dataclass
class _Counts:
    """What was seen in each image in one evaluation.

    Args:
        kinds: Objects of each kind, (N, 4).
        ious: Sum of the IoU of those that are right, (N,).
        false: False detections, (N,).
        any_class: See :func:`count_broken`.
    """

    kinds: np.ndarray
    ious: np.ndarray
    false: np.ndarray
    any_class: ApTable | None

    @classmethod
    def of(
        cls,
        predictions: Sequence[Mapping],
        truths: Sequence[Mapping[str, np.ndarray]],
        voc_boxes: bool,
        any_class: ApTable | None,
    ) -> _Counts:
        """Look at each image."""
        images = [_look(p, t, voc_boxes) for p, t in zip(predictions, truths)]
        kinds = np.array([np.bincount(kinds, minlength=4) for kinds, _, _ in images])
        ious = np.array([own[kinds == RIGHT].sum() for kinds, own, _ in images])
        false = np.array([count for _, _, count in images])
        return cls(kinds, ious, false, any_class)

    def resampled(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Each number on draws of the images, (B, N) to (B,); NaN of nothing."""
        kinds = weights @ self.kinds
        objects, right = kinds.sum(1), kinds[:, RIGHT]
        values = {name: _ratio(kinds[:, k], objects) for k, name in enumerate(KINDS)}
        values['false_per_image'] = weights @ self.false / weights.sum(1)
        values['mean_iou'] = _ratio(weights @ self.ious, right)
        if self.any_class is not None:
            values['any_class_ap'] = self.any_class.resampled(weights)
        return values


@dataclass
class _Measured:
    """What was seen in each evaluation."""

    parts: Sequence[_Counts]

    def resampled(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Mean over evaluations; of those that know a number, as the IoU of nothing."""
        drawn = [part.resampled(weights) for part in self.parts]
        return {name: mean_of_known([one[name] for one in drawn]) for name in drawn[0]}

    def intervals(self, values: Mapping[str, float]) -> dict[str, tuple[float, float]]:
        """Intervals of these numbers of all images."""
        kinds, bootstrap = self.parts[0].kinds, Bootstrap()
        count, with_objects = len(kinds), int((kinds.sum(1) > 0).sum())
        intervals = {}
        for name, draws in self.resampled(bootstrap.weights(count)).items():
            value = values[name]
            if np.isnan(value):
                continue
            if name == 'false_per_image':
                ends = bootstrap.paired_interval(draws)
                if value == 0:  # no image of so many shows one
                    ends = 0.0, -float(np.log((1 - bootstrap.level) / 2)) / count
            elif name in KINDS and value in (0, 1):
                ends = bootstrap.interval_of_alike(value, with_objects)
            else:
                ends = bootstrap.interval(draws, value)
            if ends is not None:
                intervals[name] = ends
        return intervals


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def _look(
    prediction: Mapping, truth: Mapping[str, np.ndarray], voc_boxes: bool
) -> tuple[np.ndarray, np.ndarray, int]:
    """Kind of each object of an image, best IoU with its class, and false detections.

    Of the ignored regions any share of a detection counts: it is no false one there.
    """
    shown = prediction['scores'].numpy() >= SCORE_THRESHOLD
    boxes = prediction['bboxes'].numpy()[shown]
    labels = prediction['labels'].numpy()[shown]
    ious = _overlaps(boxes, truth['bboxes'], voc_boxes)  # (D, G)
    same = labels[:, None] == truth['labels']
    own = np.where(same, ious, 0).max(0, initial=0)
    ways = [own >= HIT, ious.max(0, initial=0) >= HIT, own >= NEAR]
    kinds = np.select(ways, [RIGHT, WRONG_CLASS, MOVED], LOST)
    ignored = _overlaps(boxes, truth['bboxes_ignore'], voc_boxes, 'iof')
    nearest = np.maximum(ious.max(1, initial=0), ignored.max(1, initial=0))
    return kinds, own, int((nearest < NEAR).sum())


def _overlaps(
    boxes: np.ndarray, others: np.ndarray, voc_boxes: bool, mode: str = 'iou'
) -> np.ndarray:
    if len(boxes) == 0 or len(others) == 0:
        return np.zeros((len(boxes), len(others)))
    return bbox_overlaps(boxes, others, mode, use_legacy_coordinate=voc_boxes)
