"""What detections are worth: average precision of one image, and of one class.

Class APs are computed here and not by mmdet's ``eval_map``, which agrees to 1e-6: that
one counts in single precision, which would break ties between attacks by rounding, and
forks a pool of processes whenever there is more than one image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from mmdet.evaluation import VOCMetric
from mmdet.evaluation.functional import average_precision, bbox_overlaps
from mmdet.evaluation.functional.mean_ap import tpfp_default
from mmdet.models.utils import samplelist_boxtype2tensor
from mmengine.structures import InstanceData
from torch import Tensor

from ..account import Broke
from ..image_tables import FALSE, TRUE, ApRule, ApTable, Matches
from ..record import RunRecord
from .base import Prediction, Scorer
from .box_metrics import MASK_METRICS, check_measures, check_truth, kinds_of
from .broke import count_broken
from .matching import Matcher, matcher_of

FIELDS = ('bboxes', 'scores', 'labels')


class DetectionScorer(Scorer):
    """Scores of boxes: :func:`image_ap`, :func:`image_margin`, :func:`class_aps`.

    Args:
        evaluator: Evaluator with VOC's or COCO's metric of boxes.
        truth: The test set.

    Raises:
        ValueError: If the evaluator has no mAP of boxes.

    Example:
        >>> import torch
        >>> from mmdet.structures import DetDataSample
        >>> from mmengine.evaluator import Evaluator
        >>> from mmdiff.evaluation.scoring import GroundTruth
        >>> box = {'bboxes': torch.tensor([[0.0, 0, 9, 9]]), 'labels': torch.zeros(1)}
        >>> sample = DetDataSample(gt_instances=InstanceData(**box))
        >>> truth = GroundTruth(1, lambda i: sample, ['cat'])
        >>> scorer = DetectionScorer(Evaluator(VOCMetric(metric='mAP')), truth)
        >>> prediction = {**box, 'scores': torch.tensor([0.75])}
        >>> round(scorer.image_score(0, prediction), 3), scorer.margin(0, prediction)
        (1.0, 0.75)
    """

    task = 'detection'
    fields = FIELDS
    score_name = 'mean AP per image'

    @property
    def voc_boxes(self) -> bool:
        """Whether a box from 0 to 9 is 10 wide, as VOC's metric has it."""
        return any(isinstance(m, VOCMetric) for m in self.evaluator.metrics)

    def settings(self) -> list:
        return [*super().settings(), self.voc_boxes]

    def check_evaluator(self) -> None:
        kinds = {kind for m in self.evaluator.metrics for kind in kinds_of(m)}
        if not {'mAP', 'bbox'} & kinds:
            measured = ', '.join(sorted(kinds)) or 'nothing of the kind'
            raise ValueError(
                'RobustTestLoop compares the mAP of boxes; set test_evaluator to '
                "VOCMetric with metric='mAP' or to CocoMetric with metric='bbox' (it "
                f'measures {measured}).'
            )
        for metric in self.evaluator.metrics:
            check_measures(metric)
        self._take_out_masks()

    def _take_out_masks(self) -> None:
        """Measure boxes alone: a run keeps no masks that could be measured."""
        kept = []
        for metric in self.evaluator.metrics:
            if isinstance(metric, MASK_METRICS):
                self.not_measured.append(type(metric).__name__)
                continue
            if 'segm' in kinds_of(metric):
                self.not_measured.append(f'segm of {type(metric).__name__}')
                metric.metrics = [kind for kind in metric.metrics if kind != 'segm']
                if not metric.metrics:
                    continue
            kept.append(metric)
        self.evaluator.metrics = kept

    def check_sample(self, sample: Any) -> None:
        objects = sample.get('gt_instances', ())
        if 'bboxes' not in objects or 'labels' not in objects:
            raise ValueError(
                'The test set has no ground truth; add LoadAnnotations(with_bbox=True) '
                'to the test pipeline, after Resize.'
            )
        for metric in self.evaluator.metrics:
            check_truth(metric, sample, self.truth.gt_scale)

    @staticmethod
    def lighten(sample: Any) -> None:
        """Take off masks, and the kind of boxes, from a data sample."""
        samplelist_boxtype2tensor([sample])
        for key in ('gt_instances', 'ignored_instances'):
            if 'masks' in sample.get(key, {}):
                del sample.get(key).masks

    def read(self, output: Any) -> dict[str, Tensor]:
        boxes = output.pred_instances
        if not all(name in boxes for name in FIELDS):
            raise ValueError(
                f'Robustness is measured on detections with {", ".join(FIELDS)}, and '
                f'this model predicts only {", ".join(boxes.keys())}.'
            )
        return {name: boxes[name].detach().cpu() for name in FIELDS}

    def put(self, sample: Any, prediction: Prediction) -> None:
        sample.pred_instances = InstanceData(**prediction)

    def image_score(self, index: int, prediction: Prediction) -> float:
        sample = self.truth.sample(index)
        return image_ap(prediction, sample, self.truth.gt_scale, self.voc_boxes)

    def can_be_lost(self, index: int) -> bool:
        return len(self.truth.sample(index).gt_instances) > 0

    def margin(self, index: int, prediction: Prediction) -> float:
        sample = self.truth.sample(index)
        return image_margin(prediction, sample, self.truth.gt_scale, self.voc_boxes)

    def per_class(self, record: RunRecord) -> dict[str, float]:
        """AP at IoU 0.5 by class, as the VOC metric counts it if that is in use."""
        eval_mode = 'area'
        for metric in self.evaluator.metrics:
            if isinstance(metric, VOCMetric):
                eval_mode = metric.eval_mode
        return class_aps(
            record.predictions,
            self.truth.samples(),
            self.truth.classes,
            self.truth.gt_scale,
            eval_mode,
            self.voc_boxes,
        )

    def matcher(self, metric: str) -> Matcher | None:
        return matcher_of(self.evaluator.metrics, metric, self.truth.samples())

    def broke(self, record: RunRecord) -> Broke:
        samples, voc_boxes = self.truth.samples(), self.voc_boxes
        truths = [_truth(sample, self.truth.gt_scale) for sample in samples]
        one_class = [
            {k: v * 0 if k.startswith('labels') else v for k, v in truth.items()}
            for truth in truths
        ]
        evaluations = [one.predictions for one in record.evaluations]
        tables = []
        for predictions in evaluations:
            merged = [{**p, 'labels': p['labels'] * 0} for p in predictions]
            tables.append(_table_of_one_class(merged, one_class, voc_boxes))
        return count_broken(evaluations, truths, voc_boxes, tables)

    def differ(self, first: Prediction, second: Prediction) -> bool:
        """Whether the scores of the surest detections differ."""
        one, other = (np.sort(p['scores'].numpy())[::-1] for p in (first, second))
        both = min(len(one), len(other))
        # Kernels that add in any order move a score by 1e-5, and by that one across
        # the threshold; fresh noise moves it by more than 1e-3.
        apart = np.abs(one[:both] - other[:both]).max(initial=0)
        return bool(apart > 1e-3 or both < 0.5 * max(len(one), len(other)))


def _truth(sample: Any, gt_scale: str) -> dict[str, np.ndarray]:
    """Ground truth as mmdet's functions take it, at the scale of the file."""
    scale = sample.metainfo.get('scale_factor', (1, 1)) if gt_scale == 'input' else 1
    truth = {'bboxes_ignore': np.zeros((0, 4)), 'labels_ignore': np.zeros(0, int)}
    for key, end in (('gt_instances', ''), ('ignored_instances', '_ignore')):
        if key in sample:
            for name in ('bboxes', 'labels'):
                truth[name + end] = sample.get(key)[name].cpu().numpy()
            truth['bboxes' + end] = truth['bboxes' + end] / np.resize(scale, 4)
    return truth


def _match(
    prediction: Prediction, truth: dict, label: int, voc_boxes: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of one class's detections in an image, which are true, which false."""
    of_class = (prediction['labels'] == label).numpy()
    scores = prediction['scores'].numpy()[of_class]
    boxes = np.hstack([prediction['bboxes'].numpy()[of_class], scores[:, None]])
    objects = truth['bboxes'][truth['labels'] == label]
    ignored = truth['bboxes_ignore'][truth['labels_ignore'] == label]
    if voc_boxes:  # VOC's rule for difficult objects: they are matched like others
        tp, fp = tpfp_default(boxes, objects, ignored, use_legacy_coordinate=True)
        return scores, tp[0], fp[0]
    tp, fp = tpfp_default(boxes, objects, np.zeros((0, 4)))
    return scores, tp[0], fp[0] * ~_in_crowd(boxes[:, :4], ignored)


def _in_crowd(boxes: np.ndarray, crowds: np.ndarray) -> np.ndarray:
    """Which boxes lie in a crowd region by half, (N,): COCO's rule.

    A crowd takes any number of detections, and what counts is the share of the
    detection, for the region is larger than any object in it.
    """
    if len(boxes) == 0 or len(crowds) == 0:
        return np.zeros(len(boxes), bool)
    return bbox_overlaps(boxes, crowds, mode='iof').max(1) >= 0.5


def _matches(
    prediction: Prediction, truth: dict, voc_boxes: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """:func:`_match` of each class that is detected."""
    for label in np.unique(prediction['labels'].numpy()):
        yield _match(prediction, truth, label, voc_boxes)


def _class_ap(
    predictions: Sequence[Prediction],
    truths: Sequence[dict],
    label: int,
    eval_mode: str,
    voc_boxes: bool,
) -> float | None:
    """AP of one class over images; ``None`` if it has no objects."""
    objects = sum(int((truth['labels'] == label).sum()) for truth in truths)
    if objects == 0:
        return None
    matches = [
        _match(prediction, truth, label, voc_boxes)
        for prediction, truth in zip(predictions, truths)
    ]
    scores, hits, misses = zip(*matches)
    order = np.argsort(-np.concatenate(scores), kind='stable')
    # In double precision, as mmdet's metric: in single other points of the 11 recalls
    # are missed by a hair.
    tp = np.concatenate(hits)[order].cumsum(dtype=float)
    fp = np.concatenate(misses)[order].cumsum(dtype=float)
    # A detection on an ignored object counts as neither: 0 of 0.
    precision = tp / np.maximum(tp + fp, np.finfo(np.float32).eps)
    return float(average_precision(tp / objects, precision, eval_mode))


def _table_of_one_class(
    predictions: Sequence[Prediction], truths: Sequence[dict], voc_boxes: bool
) -> ApTable | None:
    """Table of the AP at IoU 0.5 of the only class, 0; ``None`` without objects."""
    objects = np.array([[len(truth['labels'])] for truth in truths])
    if not objects.any():
        return None
    parts = []
    for i, (prediction, truth) in enumerate(zip(predictions, truths)):
        scores, hits, misses = _match(prediction, truth, 0, voc_boxes)
        outcomes = TRUE * (hits > 0) + FALSE * (misses > 0)
        images, labels = np.full(len(scores), i), np.zeros(len(scores), int)
        parts.append(Matches(images, labels, scores, outcomes[None]))
    rule = ApRule(objects, np.arange(len(truths)), None, stable=True)
    return ApTable.of(rule, Matches.join(parts))


def image_ap(
    prediction: Prediction,
    sample: Any,
    gt_scale: str = 'original',
    voc_boxes: bool = False,
) -> float:
    """Mean AP at IoU 0.5 over the classes that one image shows, in 0..1.

    An image without objects has ``1 - highest false score``: there detections only
    harm, but for those of ignored ("difficult") objects.

    Args:
        prediction: ``bboxes`` (K, 4), ``scores``, ``labels`` (K,), tensors on the CPU.
        sample: Data sample with the ground truth.
        gt_scale: Scale of the ground truth: ``'original'``, that of the file, or
            ``'input'``.
        voc_boxes: A box from 0 to 9 is 10 wide, as VOCMetric has it.
    """
    truth = _truth(sample, gt_scale)
    if len(truth['labels']) == 0:
        matches = _matches(prediction, truth, voc_boxes)
        return 1 - max((float((s * fp).max()) for s, _, fp in matches), default=0.0)
    aps = [
        _class_ap([prediction], [truth], label, 'area', voc_boxes)
        for label in np.unique(truth['labels'])
    ]
    return float(np.mean([ap for ap in aps if ap is not None]))


def image_margin(
    prediction: Prediction,
    sample: Any,
    gt_scale: str = 'original',
    voc_boxes: bool = False,
) -> float:
    """Summed scores of true detections at IoU 0.5, less those of false ones.

    Of two results with the same AP on one image, the one with less of this harms the AP
    over many images more: there scores decide what comes first.

    Args:
        prediction: See :func:`image_ap`.
        sample: See :func:`image_ap`.
        gt_scale: See :func:`image_ap`.
        voc_boxes: See :func:`image_ap`.
    """
    matches = _matches(prediction, _truth(sample, gt_scale), voc_boxes)
    return float(sum((score * (tp - fp)).sum() for score, tp, fp in matches))


def class_aps(
    predictions: Sequence[Prediction],
    samples: Sequence[Any],
    classes: Sequence[str],
    gt_scale: str = 'original',
    eval_mode: str = 'area',
    voc_boxes: bool = False,
) -> dict[str, float]:
    """AP at IoU 0.5 over all images of every class that they show.

    Args:
        predictions: Predictions for each image; see :func:`image_ap`.
        samples: Data samples of these images.
        classes: Names of the classes.
        gt_scale: See :func:`image_ap`.
        eval_mode: ``'area'`` under the curve, or ``'11points'``.
        voc_boxes: See :func:`image_ap`.
    """
    truths = [_truth(sample, gt_scale) for sample in samples]
    aps = {}
    for label, name in enumerate(classes):
        ap = _class_ap(predictions, truths, label, eval_mode, voc_boxes)
        if ap is not None:
            aps[name] = ap
    return aps
