"""What is left of smoothed boxes whatever an attack does: worst IoU, worst counts.

Arrays of NumPy alone: no model and no evaluator.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.optimize import linear_sum_assignment

from .image_tables import highest_to_come


def worst_iou(lower: np.ndarray, upper: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Return the lowest IoU that a box within bounds can have with an object.

    As a function of one coordinate, IoU rises up to the object's side and falls behind
    it, so the lowest is at an end of each of the four intervals: one of the 16 boxes of
    ends, as in the code of Chiang et al. 2020. A box whose sides can pass each other
    can be empty: 0. Boxes are of real numbers; no pixel is added to a side.

    Args:
        lower: Lower bounds of x1, y1, x2, y2, (S, 4).
        upper: Upper bounds, (S, 4); where one is infinite, the box can be anywhere: 0.
        objects: Boxes of objects, (G, 4).

    Returns:
        IoU, (S, G).

    Example:
        >>> box = np.array([[0.0, 0, 10, 10]])
        >>> worst_iou(box - 1, box + 1, box).round(2)
        array([[0.64]])
    """
    worst = np.ones((len(lower), len(objects)))
    bounded = np.isfinite(lower).all(1) & np.isfinite(upper).all(1)
    ends = np.stack([lower, upper])[:, bounded]  # (2, S', 4)
    for chosen in product((0, 1), repeat=4):
        boxes = np.stack([ends[end, :, i] for i, end in enumerate(chosen)], 1)
        worst[bounded] = np.minimum(worst[bounded], iou(boxes, objects))
    worst[~bounded] = 0
    return worst


def iou(boxes: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Return the IoU of each box with each object, (S, G); that of nothing is 0.

    Args:
        boxes: x1, y1, x2, y2, (S, 4).
        objects: Boxes of objects, (G, 4).
    """
    starts = np.maximum(boxes[:, None, :2], objects[None, :, :2])
    ends = np.minimum(boxes[:, None, 2:], objects[None, :, 2:])
    common = (ends - starts).clip(0).prod(2)
    union = _areas(boxes)[:, None] + _areas(objects) - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(1)


@dataclass(frozen=True)
class BoxCount:
    """True boxes of an image, and all that count.

    Args:
        true: Boxes that are true, at least, each of another object.
        reported: Boxes that count as reported, at most.
    """

    true: int
    reported: int


def count_boxes(
    overlaps: np.ndarray,
    possible: np.ndarray,
    same_class: np.ndarray,
    ignored: np.ndarray,
    iou_thr: float,
) -> BoxCount:
    """Match boxes to objects, each to one at most.

    The matching is the largest there is: under an attack that leaves all these overlaps
    no smaller, the largest is no smaller either. A box that overlaps an object to be
    ignored, and no matched one needs, does not count.

    Args:
        overlaps: IoU of each box with each object, at least, (S, G).
        possible: Boxes that may be reported, (S,).
        same_class: Whether box and object are of one class, (S, G).
        ignored: Objects to be ignored, (G,).
        iou_thr: IoU from which a box is true.

    Example:
        >>> one, no = np.ones((2, 1), bool), np.zeros(1, bool)
        >>> count_boxes(np.array([[0.6], [0.7]]), np.ones(2, bool), one, no, 0.5)
        BoxCount(true=1, reported=2)
    """
    hits = (overlaps >= iou_thr) & same_class & possible[:, None]
    wanted, aside = hits[:, ~ignored], hits[:, ignored].any(1)
    # The more pairs the better; of as many, those of boxes that would count.
    worth = wanted * (1 - aside[:, None] / (2 * len(hits) + 2))
    boxes, objects = linear_sum_assignment(worth, maximize=True)
    matched = np.zeros(len(hits), bool)
    matched[boxes] = wanted[boxes, objects]
    left_out = aside & ~matched
    return BoxCount(int(matched.sum()), int((possible & ~left_out).sum()))


@dataclass
class CountTable:
    """Counts of each image at some thresholds: what AP is taken of.

    Precision and recall are those of all boxes of all classes together, as in the code
    of Chiang et al. 2020, at each of some thresholds of the score. AP is the area below
    the steps of highest precision at this or a higher recall, 0 beyond the highest:
    every box that an attack takes away or adds lowers it, or leaves it.

    Args:
        true: True boxes, (N, T).
        reported: Reported boxes, (N, T).
        objects: Objects, (N,).

    Example:
        >>> table = CountTable(*(np.array(x) for x in ([[1, 2]], [[1, 4]], [4])))
        >>> table.resampled(np.ones((1, 1)))  # 1/4 at precision 1, 1/4 at 1/2
        array([0.375])
    """

    true: np.ndarray
    reported: np.ndarray
    objects: np.ndarray

    def resampled(self, weights: np.ndarray) -> np.ndarray:
        """AP of several selections of images.

        Args:
            weights: How often each selection has each image, (B, N).

        Returns:
            Values, (B,); NaN where a selection has no object.
        """
        objects = (weights @ self.objects)[:, None]
        true, reported = weights @ self.true, weights @ self.reported
        recall = true / np.maximum(objects, 1e-12)
        precision = true / np.maximum(reported, 1e-12)
        order = np.argsort(recall, axis=1)
        recall = np.take_along_axis(recall, order, 1)
        best = highest_to_come(np.take_along_axis(precision, order, 1))
        area = (np.diff(recall, axis=1, prepend=0) * best).sum(1)
        return np.where(objects[:, 0] > 0, area, np.nan)

    def arrays(self) -> dict[str, np.ndarray]:
        """Arrays by name."""
        return {
            'true': self.true,
            'reported': self.reported,
            'objects': self.objects,
        }
