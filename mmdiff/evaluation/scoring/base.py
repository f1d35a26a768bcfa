"""The contract of every scorer."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from mmengine.evaluator import Evaluator
from torch import Tensor

from ..account import Broke
from ..image_tables import MeanTable
from ..record import RunRecord

if TYPE_CHECKING:
    from .matching import Matcher

Prediction = Mapping[str, Tensor]


def restrict_images(evaluator: Evaluator, img_ids: Iterable | None) -> None:
    """Have metrics with a file of their own, COCO's, count these images only.

    Args:
        evaluator: The evaluator.
        img_ids: Ids of the images; ``None`` if they are not known.

    Raises:
        ValueError: If such a metric would count the detections of an image twice.
    """
    ids = [] if img_ids is None else list(img_ids)
    for metric in evaluator.metrics:
        if not ids or not hasattr(metric, '_coco_api'):
            continue
        if len(set(ids)) < len(ids):
            raise ValueError(
                f'{type(metric).__name__} tells images by their id, and ids of the '
                'test set come more than once; test without datasets that repeat '
                'images or share ids.'
            )
        # LVISMetric reads its file by another package, under another name.
        if metric._coco_api is not None or getattr(metric, '_lvis_api', None):
            metric.img_ids = ids


@dataclass
class GroundTruth:
    """Images of a test set and what they show.

    Args:
        num_images: Number of images.
        sample: Function of an image's number that gives its data sample, on the CPU.
        classes: Names of the classes.
        gt_scale: Scale of boxes: ``'original'`` or ``'input'``.
    """

    num_images: int
    sample: Callable[[int], Any]
    classes: Sequence[str] = ()
    gt_scale: str = 'original'

    def samples(self) -> list:
        """Data samples of all images."""
        return [self.sample(i) for i in range(self.num_images)]


class Scorer(ABC):
    """Measures what predictions are worth, image by image and over the set.

    Args:
        evaluator: The runner's evaluator, whose metrics are reported.
        truth: The test set.

    Raises:
        ValueError: If the evaluator does not measure the task.
    """

    task: ClassVar[str]
    # Names of the tensors that a prediction has.
    fields: ClassVar[tuple[str, ...]]
    # What :meth:`image_score` is, averaged over images, in sentences.
    score_name: ClassVar[str]

    def __init__(self, evaluator: Evaluator, truth: GroundTruth) -> None:
        self.evaluator = evaluator
        self.truth = truth
        self._metric_names: list[str] = []
        # What the evaluator could measure, and this scorer does not.
        self.not_measured: list[str] = []
        self.check_evaluator()

    @abstractmethod
    def check_evaluator(self) -> None:
        """Complain about metrics that say nothing of the task, or take them out.

        Raises:
            ValueError: If so.
        """

    @abstractmethod
    def check_sample(self, sample: Any) -> None:
        """Complain about a data sample without ground truth.

        Raises:
            ValueError: If so.
        """

    @staticmethod
    def lighten(sample: Any) -> None:
        """Take off a data sample what is large and never measured; here nothing."""
        return

    @abstractmethod
    def read(self, output: Any) -> dict[str, Tensor]:
        """Take the prediction off a data sample that the model gave back.

        Returns:
            Tensors on the CPU by the names of :attr:`fields`, one or more rows each.

        Raises:
            ValueError: If the model does not predict this.
        """

    @abstractmethod
    def put(self, sample: Any, prediction: Prediction) -> None:
        """Set the prediction in a data sample, as the model would."""

    @abstractmethod
    def image_score(self, index: int, prediction: Prediction) -> float:
        """What a prediction for one image is worth, 0..1; 0: nothing is left."""

    @abstractmethod
    def margin(self, index: int, prediction: Prediction) -> float:
        """How surely it is so: of two equal scores, the lower margin harms more."""

    @abstractmethod
    def per_class(self, record: RunRecord) -> dict[str, float]:
        """What all predictions are worth, by class."""

    def can_be_lost(self, index: int) -> bool:
        """Whether an image shows anything that an attack could make a model miss."""
        return True

    def score_spread(self, record: RunRecord) -> float | None:
        """Log of how many times the score of one class is another's, in the middle.

        ``None`` if predictions are no scores of all classes.
        """
        return None

    def matcher(self, metric: str) -> Matcher | None:
        """Matcher of the detections that a metric counts; ``None`` if there is none.

        Args:
            metric: Name of the metric's value: ``'coco/bbox_mAP'``.
        """
        return None

    def mean_table(self, metric: str, record: RunRecord) -> MeanTable | None:
        """Table of a metric that is a mean over images; ``None`` if it is none."""
        return None

    def broke(self, record: RunRecord) -> Broke | None:
        """Count what became of the objects, on average over the evaluations.

        ``None`` for tasks without objects.
        """
        return None

    @abstractmethod
    def differ(self, first: Prediction, second: Prediction) -> bool:
        """Whether two predictions for one image differ by more than rounding."""

    def settings(self) -> list:
        """All that scores of images depend on, beside predictions, as JSON says it."""
        return [self.task, self.truth.gt_scale]

    def mean_per_class(self, record: RunRecord) -> float:
        """Mean of :meth:`per_class`."""
        return float(np.mean(list(self.per_class(record).values())))

    def margins(self, record: RunRecord) -> list[float]:
        """:meth:`margin` of every image."""
        return [self.margin(i, one) for i, one in enumerate(record.predictions)]

    def measure(
        self, record: RunRecord, rank: int = 0, world: int = 1
    ) -> dict[str, float]:
        """Metrics of the evaluator on a record, which covers all images.

        Args:
            record: Predictions, the same on all ranks.
            rank: Number of this process: it takes every ``world``-th image, as
                mmengine collects results in the dataset's order.
            world: Number of processes.

        Raises:
            ValueError: If nothing is predicted in the first record, the clean one.
        """
        truth = self.truth
        ids = [sample.metainfo.get('img_id') for sample in truth.samples()]
        restrict_images(self.evaluator, ids)
        for i in range(rank, truth.num_images, world):
            sample = copy.deepcopy(truth.sample(i))
            self.put(sample, record.predictions[i])
            self.evaluator.process(data_samples=[sample])
        measured = self.evaluator.evaluate(truth.num_images)
        metrics = {k: float(v) for k, v in measured.items() if isinstance(v, Real)}
        self._metric_names = self._metric_names or list(metrics)
        if not self._metric_names:
            raise ValueError(
                'The model predicts nothing on the clean images; there is nothing to '
                'attack (is it the right checkpoint?).'
            )
        # COCO has no figure where nothing was detected.
        return {name: metrics.get(name, 0.0) for name in self._metric_names}
