"""What an attack on a detector ascends, from all that it would report at test time.

The losses of a head say what it is trained for. A metric counts something else: which
boxes are reported, with which scores. These objectives are functions of just that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor

from mmdiff.registry import OBJECTIVES

# Log-odds are cut where float32 knows nothing below (of no) and above (of sure).
NO, SURE = 1e-12, 1e-6
# Weight of false alarms in every objective: nothing beside an object, but where all
# objects are gone an attack goes on with them instead of standing still.
SPARE = 1e-3


@dataclass(frozen=True)
class Candidates:
    """All that a detector could report of one image: before thresholds and NMS.

    Args:
        boxes: (N, 4), x1, y1, x2, y2 in pixels of the input.
        scores: (N,), 0..1, differentiable to the image.
        labels: Classes, (N,).
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    @property
    def log_odds(self) -> Tensor:
        """``log(p / (1 - p))`` of the scores: it does not flatten where p is near 1."""
        no, sure = self.scores.clamp_min(NO), (1 - self.scores).clamp_min(SURE)
        return no.log() - sure.log()


@dataclass(frozen=True)
class Truth:
    """The objects of one image.

    Args:
        boxes: (M, 4), in pixels of the input.
        labels: Classes, (M,).
        targets: Wrong classes that targeted objectives want instead, (M,).
        ignored: Boxes that the metric ignores (difficult, crowd), (K, 4).
    """

    boxes: Tensor
    labels: Tensor
    targets: Tensor
    ignored: Tensor

    @classmethod
    def of(cls, sample: Any) -> Truth:
        """Read a data sample with ground truth at the scale of the input."""
        objects = sample.gt_instances
        ignored = sample.get('ignored_instances')
        none = objects.bboxes.new_zeros((0, 4))
        return cls(
            objects.bboxes,
            objects.labels,
            objects.get('targets', objects.labels),
            none if ignored is None else ignored.get('bboxes', none),
        )


class DetectionObjective(ABC):
    """What to ascend, as a function of one image's candidates and objects.

    A subclass is a dataclass in ``mmdiff.OBJECTIVES``, and configs name it:
    ``objective=dict(type='MyObjective', weight=2)``.

    Example:
        >>> from dataclasses import dataclass
        >>> from mmdiff import OBJECTIVES
        >>> @OBJECTIVES.register_module()
        ... @dataclass
        ... class LowerMeanScore(DetectionObjective):
        ...     weight: float = 1.0
        ...
        ...     def __call__(self, candidates, truth):
        ...         return -self.weight * candidates.scores.mean()
        >>> from mmdiff.attacks import APGD
        >>> APGD(eps=2, objective=dict(type='LowerMeanScore', weight=2)).name
        'apgd'
    """

    task: ClassVar[str] = 'detection'
    # Whether ground truth must name a wrong class for each object.
    needs_targets: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, candidates: Candidates, truth: Truth) -> Tensor:
        """Return the objective of one image, a scalar that is differentiable.

        Args:
            candidates: What the model could report, with gradients.
            truth: The objects.
        """

    def at_restart(self, restart: int) -> DetectionObjective:
        """Return the objective of one restart: the same, unless overridden."""
        return self


def scores_on_objects(
    candidates: Candidates,
    boxes: Tensor,
    labels: Tensor,
    min_iou: float,
    others: bool = False,
) -> Tensor:
    """How surely each object is reported: log-sum-exp of log-odds on it, (M,).

    Args:
        candidates: What the model could report.
        boxes: Objects, (M, 4).
        labels: The class to look for on each, (M,).
        min_iou: Overlap from which a candidate is on an object.
        others: Look for all classes but that one.

    Returns:
        An object without any candidate has the value of a score of 0, and no gradient.
    """
    on = bbox_overlaps(boxes, candidates.boxes.detach()) >= min_iou
    on &= (labels[:, None] == candidates.labels) != others
    floor = candidates.scores.new_full((len(boxes), 1), NO).log()
    values = candidates.log_odds.expand(len(boxes), -1)
    return torch.cat([values.masked_fill(~on, -torch.inf), floor], 1).logsumexp(1)


def false_alarms(candidates: Candidates, truth: Truth, min_iou: float) -> Tensor:
    """How surely something is reported where nothing is, a scalar.

    Log-sum-exp of the log-odds of the candidates that are on no object of their class.
    Candidates on what the metric ignores are no false alarms either.
    """
    boxes = candidates.boxes.detach()
    on = bbox_overlaps(truth.boxes, boxes) >= min_iou
    right = (on & (truth.labels[:, None] == candidates.labels)).any(0)
    ignored = (bbox_overlaps(boxes, truth.ignored, mode='iof') >= min_iou).any(1)
    alarms = candidates.log_odds[~right & ~ignored]
    return torch.cat([alarms, alarms.new_full((1,), NO).log()]).logsumexp(0)


@OBJECTIVES.register_module()
@dataclass
class Detections(DetectionObjective):
    """Lower the scores of true classes on objects; raise false alarms if asked.

    Args:
        false_alarms: Weight of false alarms (:func:`false_alarms`).
        min_iou: Overlap from which a candidate is on an object, as in the metric.
    """

    false_alarms: float = SPARE
    min_iou: float = 0.5

    def __call__(self, candidates: Candidates, truth: Truth) -> Tensor:
        on = scores_on_objects(candidates, truth.boxes, truth.labels, self.min_iou)
        alarms = false_alarms(candidates, truth, self.min_iou)
        return self.false_alarms * alarms - on.sum()


@OBJECTIVES.register_module()
@dataclass
class Margin(DetectionObjective):
    """Let another class win on each object: its scores above those of the true one.

    The margin loss of Carlini and Wagner (2017), object by object; an object counts
    until another class leads by ``confidence``.

    Args:
        confidence: Lead in log-odds that is enough.
        min_iou: Overlap from which a candidate is on an object, as in the metric.
    """

    confidence: float = 5.0
    min_iou: float = 0.5

    def __call__(self, candidates: Candidates, truth: Truth) -> Tensor:
        right = scores_on_objects(candidates, truth.boxes, truth.labels, self.min_iou)
        wrong = scores_on_objects(
            candidates, truth.boxes, truth.labels, self.min_iou, others=True
        )
        alarms = false_alarms(candidates, truth, self.min_iou)
        return (wrong - right).clamp(max=self.confidence).sum() + SPARE * alarms


@OBJECTIVES.register_module()
@dataclass
class Targeted(DetectionObjective):
    """Let one wrong class win on each object: all true classes shifted by one number.

    Args:
        min_iou: Overlap from which a candidate is on an object, as in the metric.
    """

    min_iou: float = 0.5
    needs_targets: ClassVar[bool] = True

    def __call__(self, candidates: Candidates, truth: Truth) -> Tensor:
        right = scores_on_objects(candidates, truth.boxes, truth.labels, self.min_iou)
        wrong = scores_on_objects(candidates, truth.boxes, truth.targets, self.min_iou)
        alarms = false_alarms(candidates, truth, self.min_iou)
        return (wrong - right).sum() + SPARE * alarms
