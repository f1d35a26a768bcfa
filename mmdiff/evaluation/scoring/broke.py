"""What an attack broke: objects lost, moved, called wrongly, and false ones.

The kinds are those of TIDE (Bolya et al. 2020, IoU 0.1 and 0.5), counted by object as
armory's metrics of object detection do: true positive, misclassification and
disappearance rate, and hallucinations per image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from mmdet.evaluation.functional import bbox_overlaps

from ..account import Broke

# Detections below it are not shown to people; mmdet draws them from 0.3.
SCORE_THRESHOLD = 0.3
HIT, NEAR = 0.5, 0.1  # IoU
RIGHT, WRONG_CLASS, MOVED, LOST = range(4)


def count_broken(
    predictions: Sequence[Mapping],
    truths: Sequence[Mapping[str, np.ndarray]],
    voc_boxes: bool,
    any_class_ap: float | None,
) -> Broke:
    """Count what became of each object.

    Args:
        predictions: ``bboxes``, ``scores``, ``labels`` of each image, on the CPU.
        truths: ``bboxes``, ``labels``, ``bboxes_ignore`` of each image.
        voc_boxes: A box from 0 to 9 is 10 wide, as VOCMetric has it.
        any_class_ap: AP when all classes are one.
    """
    images = [_look(p, t, voc_boxes) for p, t in zip(predictions, truths)]
    kinds, own_ious, falses = zip(*images)
    kind, iou, false = np.concatenate(kinds), np.concatenate(own_ious), sum(falses)
    iou = iou[kind == RIGHT]
    shares = np.bincount(kind, minlength=4) / max(len(kind), 1)
    return Broke(
        score_threshold=SCORE_THRESHOLD,
        objects=len(kind),
        right=float(shares[RIGHT]),
        wrong_class=float(shares[WRONG_CLASS]),
        moved=float(shares[MOVED]),
        lost=float(shares[LOST]),
        false_per_image=false / len(predictions),
        mean_iou=float(iou.mean()) if len(iou) else None,
        any_class_ap=any_class_ap,
    )


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
