"""What kept detections are worth, by the runner's own metrics and image by image."""

import copy
from numbers import Real

import numpy as np
from mmdet.evaluation import VOCMetric
from mmengine.evaluator import Evaluator
from mmengine.structures import InstanceData

from mmdiff.evaluation import class_aps, image_margin, restrict

from .robust_record import RobustRecord
from .robust_runs import RobustRuns


class RobustMetrics:
    """Measure records of runs over the images of a test set.

    Args:
        evaluator: The runner's.
        runs: They know the images and their ground truth.
    """

    def __init__(self, evaluator: Evaluator, runs: RobustRuns) -> None:
        self.evaluator = evaluator
        self.runs = runs
        self._names: list[str] = []

    def check(self) -> None:
        """Raise ValueError unless the mAP of boxes is measured."""
        asked = [
            kind
            for metric in self.evaluator.metrics
            for kind in getattr(metric, 'metrics', [getattr(metric, 'metric', None)])
        ]
        if not {'mAP', 'bbox'} & set(asked) or 'segm' in asked:
            raise ValueError(
                'RobustTestLoop compares the mAP of boxes; set test_evaluator to '
                "VOCMetric with metric='mAP' or to CocoMetric with metric='bbox'."
            )

    def measure(self, record: RobustRecord) -> dict[str, float]:
        """The evaluator's metrics; mmengine collects them in the dataset's order.

        Raises:
            ValueError: If nothing is detected in the first record, the clean one.
        """
        runs = self.runs
        samples = [runs.sample(i) for i in range(runs.images)]
        restrict(self.evaluator, [s.metainfo.get('img_id') for s in samples])
        for i in range(runs.rank, runs.images, runs.world):
            sample = copy.deepcopy(runs.sample(i))
            sample.pred_instances = InstanceData(**record.detections[i])
            self.evaluator.process(data_samples=[sample])
        found = self.evaluator.evaluate(runs.images)
        found = {k: float(v) for k, v in found.items() if isinstance(v, Real)}
        self._names = self._names or list(found)
        if not self._names:
            raise ValueError(
                'The model detects nothing on the clean images; there is nothing to '
                'attack (is it the right checkpoint?).'
            )
        # COCO has no figure where nothing was detected.
        return {name: found.get(name, 0.0) for name in self._names}

    def per_class(self, record: RobustRecord) -> dict[str, float]:
        """AP at IoU 0.5 by class, as the VOC metric counts it if that is in use."""
        how = dict(use_legacy_coordinate=self.runs.legacy)
        for metric in self.evaluator.metrics:
            if isinstance(metric, VOCMetric):
                how['eval_mode'] = metric.eval_mode
        samples = [self.runs.sample(i) for i in range(self.runs.images)]
        classes = self.runs.dataset.metainfo['classes']
        given = record.detections, samples, classes, self.runs.gt_scale
        return class_aps(*given, **how)

    def mean_ap(self, record: RobustRecord) -> float:
        """Mean of :meth:`per_class`."""
        return float(np.mean(list(self.per_class(record).values())))

    def margins(self, record: RobustRecord) -> list[float]:
        """:func:`mmdiff.evaluation.image_margin` of every image."""
        runs = self.runs
        return [
            image_margin(found, runs.sample(i), runs.gt_scale, runs.legacy)
            for i, found in enumerate(record.detections)
        ]
