"""Match detections to objects as a metric does, once for each run.

The metric itself reads the data samples, and the matching is mmdet's ``tpfp_default``
or pycocotools' ``evaluateImg``: nothing of it is written anew.
"""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric, VOCMetric
from mmdet.evaluation.functional.mean_ap import tpfp_default
from mmengine.structures import InstanceData
from pycocotools.cocoeval import COCOeval

from ..image_tables import FALSE, TRUE, ApRule, Matches

COCO_DETECTIONS = 100  # of a class in an image that mAP counts
# Parts of COCO's mAP that are of one IoU, and count all detections.
OF_ONE_IOU = {'bbox_mAP_50': 0.5, 'bbox_mAP_75': 0.75}


class Matcher(ABC):
    """Matches detections to objects as one metric does.

    Args:
        metric: The metric; it is left as it is.
        samples: Data samples of all images, with ground truth.

    Attributes:
        rule: How the metric counts.
        tolerance: How far the evaluator's value may be from that of the matches.
    """

    tolerance = 1e-4
    rule: ApRule

    def __init__(self, metric: Any, samples: Sequence[Any]) -> None:
        self.metric = copy.copy(metric)
        self.samples = samples

    @abstractmethod
    def match(self, predictions: Sequence[dict]) -> Matches:
        """Match the detections of all images.

        Args:
            predictions: ``bboxes``, ``scores`` and ``labels`` of each image.
        """

    def _processed(self, samples: Sequence[Any]) -> list:
        """What the metric reads off data samples."""
        self.metric.results = []
        for sample in samples:
            self.metric.process({}, [sample.to_dict()])
        results, self.metric.results = self.metric.results, []
        return results

    def _with(self, predictions: Sequence[dict]) -> list:
        """What the metric reads off the data samples with these detections."""
        samples = []
        for sample, prediction in zip(self.samples, predictions):
            sample = sample.new()
            sample.pred_instances = InstanceData(**prediction)
            samples.append(sample)
        return self._processed(samples)


class VocMatcher(Matcher):
    """Matches as mmdet's ``VOCMetric`` does, at all its thresholds of IoU."""

    def __init__(self, metric: VOCMetric, samples: Sequence[Any]) -> None:
        super().__init__(metric, samples)
        count, self._classes = len(samples), len(metric.dataset_meta['classes'])
        objects = np.zeros((count, self._classes), np.int32)
        for i, sample in enumerate(samples):
            np.add.at(objects[i], sample.gt_instances.labels.cpu().numpy(), 1)
        # As mmdet's average_precision has them.
        points = np.arange(0, 1 + 1e-3, 0.1) if metric.eval_mode == '11points' else None
        self.rule = ApRule(objects, np.arange(count), points, stable=False)

    def match(self, predictions: Sequence[dict]) -> Matches:
        thresholds = len(self.metric.iou_thrs)
        parts = [_no_matches(thresholds)]
        for i, (truth, detections) in enumerate(self._with(predictions)):
            for label, boxes in enumerate(detections):
                if len(boxes):
                    outcomes = self._outcomes(boxes, truth, label)
                    images = np.full(len(boxes), i, np.int32)
                    labels = np.full(len(boxes), label, np.int32)
                    parts.append(Matches(images, labels, boxes[:, -1], outcomes))
        return Matches.join(parts)

    def _outcomes(self, boxes: np.ndarray, truth: dict, label: int) -> np.ndarray:
        objects = truth['bboxes'][truth['labels'] == label]
        ignored = truth['bboxes_ignore'][truth['labels_ignore'] == label]
        outcomes = []
        for threshold in self.metric.iou_thrs:
            true, false = tpfp_default(
                boxes, objects, ignored, threshold, use_legacy_coordinate=True
            )
            outcomes.append(TRUE * (true[0] > 0) + FALSE * (false[0] > 0))
        return np.array(outcomes, np.int8)


class CocoMatcher(Matcher):
    """Matches as mmdet's ``CocoMetric`` does for boxes: 101 points, all sizes.

    The metric gives three digits, so its value may be half a thousandth away.

    Args:
        metric: The metric; it is left as it is.
        samples: Data samples of all images, with ground truth.
        iou: The only IoU, of ``bbox_mAP_50`` and ``bbox_mAP_75``; ``None``: all those
            of the metric.
    """

    tolerance = 6e-4

    def __init__(
        self, metric: CocoMetric, samples: Sequence[Any], iou: float | None = None
    ) -> None:
        super().__init__(metric, samples)
        self._thresholds = metric.iou_thrs if iou is None else np.array([iou])
        self._detections = COCO_DETECTIONS if iou is None else metric.proposal_nums[2]
        if self.metric._coco_api is None:
            self.metric._coco_api = self._written_truth()
        api, names = self.metric._coco_api, metric.dataset_meta['classes']
        if self.metric.cat_ids is None:
            self.metric.cat_ids = api.get_cat_ids(cat_names=names)
        self._ids = [sample.metainfo['img_id'] for sample in samples]
        self._images = {image: i for i, image in enumerate(self._ids)}
        self._classes = {k: n for n, k in enumerate(sorted(self.metric.cat_ids))}
        place = np.argsort(np.argsort(np.array(self._ids), kind='stable'))
        points = COCOeval(iouType='bbox').params.recThrs
        self.rule = ApRule(self._count_objects(), place, points, stable=True)

    def _written_truth(self) -> COCO:
        """The ground truth as the metric writes it, which has no file of its own."""
        empty = {'bboxes': _tensor((0, 4)), 'scores': _tensor(0), 'labels': _tensor(0)}
        truths = [truth for truth, _ in self._with([empty] * len(self.samples))]
        with tempfile.TemporaryDirectory() as folder:
            path = self.metric.gt_to_coco_json(truths, str(Path(folder) / 'truth'))
            with _silence():
                return COCO(path)

    def _count_objects(self) -> np.ndarray:
        objects = np.zeros((len(self._ids), len(self._classes)), np.int32)
        low, high = COCOeval(iouType='bbox').params.areaRng[0]
        for ids in self._annotations():
            image, label = ids['image_id'], self._classes[ids['category_id']]
            if not ids.get('iscrowd') and low <= ids['area'] <= high:
                objects[self._images[image], label] += 1
        return objects

    def _annotations(self) -> list[dict]:
        api = self.metric._coco_api
        numbers = api.getAnnIds(imgIds=self._ids, catIds=list(self._classes))
        return api.loadAnns(numbers)

    def match(self, predictions: Sequence[dict]) -> Matches:
        rows = self._rows(predictions)
        parts = [_no_matches(len(self._thresholds), float)]
        if not rows:
            return parts[0]
        with _silence():
            detections = self.metric._coco_api.loadRes(rows)
            evaluation = COCOeval(self.metric._coco_api, detections, 'bbox')
            params = evaluation.params
            params.catIds, params.imgIds = list(self._classes), self._ids
            params.maxDets, params.iouThrs = [self._detections], self._thresholds
            params.areaRng, params.areaRngLbl = params.areaRng[:1], ['all']
            evaluation.evaluate()
        parts += [self._read(result) for result in evaluation.evalImgs if result]
        return Matches.join(parts)

    def _rows(self, predictions: Sequence[dict]) -> list[dict]:
        """Detections as ``CocoMetric`` gives them to pycocotools."""
        rows = []
        for _, image in self._with(predictions):
            boxes = zip(image['bboxes'], image['scores'], image['labels'])
            for box, score, label in boxes:
                rows.append(
                    {
                        'image_id': image['img_id'],
                        'bbox': self.metric.xyxy2xywh(box),
                        'score': float(score),
                        'category_id': self.metric.cat_ids[int(label)],
                    }
                )
        return rows

    def _read(self, result: dict) -> Matches:
        scores = np.array(result['dtScores'], float)
        image = self._images[result['image_id']]
        label = self._classes[result['category_id']]
        counts = ~result['dtIgnore'].astype(bool)
        true = result['dtMatches'].astype(bool)
        outcomes = np.where(true, TRUE, FALSE) * counts
        return Matches(
            np.full(len(scores), image, np.int32),
            np.full(len(scores), label, np.int32),
            scores,
            outcomes.astype(np.int8).reshape(len(self._thresholds), len(scores)),
        )


def _tensor(shape: Any) -> Any:
    return torch.zeros(shape)


def _no_matches(thresholds: int, kind: type = np.float32) -> Matches:
    none = np.zeros(0, np.int32)
    return Matches(none, none, np.zeros(0, kind), np.zeros((thresholds, 0), np.int8))


def _silence() -> contextlib.redirect_stdout:
    """pycocotools prints what it does."""
    return contextlib.redirect_stdout(io.StringIO())


def matcher_of(
    metrics: Sequence[Any], name: str, samples: Sequence[Any]
) -> Matcher | None:
    """Make the matcher of the metric that a value comes from.

    Args:
        metrics: Metrics of an evaluator.
        name: Name of the value: ``'pascal_voc/mAP'``, ``'coco/bbox_mAP'``.
        samples: Data samples of all images.

    Returns:
        ``None`` for metrics that count in a way of their own.
    """
    for metric in metrics:
        prefix = f'{metric.prefix}/' if metric.prefix else ''
        if type(metric) is VOCMetric and name == f'{prefix}mAP':
            return VocMatcher(metric, samples)
        if type(metric) is CocoMetric and name == f'{prefix}bbox_mAP':
            return CocoMatcher(metric, samples)
        iou = OF_ONE_IOU.get(name.removeprefix(prefix))
        if type(metric) is CocoMetric and iou in metric.iou_thrs:
            return CocoMatcher(metric, samples, iou)
    return None
