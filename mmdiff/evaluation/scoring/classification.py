"""What a classification is worth: whether the class is right, and by how much."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from torch import Tensor

from ..entry import PERCENT
from ..image_tables import MeanTable
from ..record import RunRecord
from .base import Prediction, Scorer


class ClassificationScorer(Scorer):
    """Scores of mmpretrain's predictions of one class for each image.

    The score of an image is 1 if mmpretrain's accuracy counts it as right, else 0; it
    is 0, too, if any score is no finite number.

    Args:
        evaluator: Evaluator with mmpretrain's ``Accuracy``.
        truth: The test set; its samples have ``gt_label``.

    Raises:
        ValueError: If the evaluator has no accuracy, or one of other than the first
            guess.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from mmengine.evaluator import Evaluator
        >>> from mmpretrain.evaluation import Accuracy
        >>> from mmdiff.evaluation.scoring import GroundTruth
        >>> cat = SimpleNamespace(gt_label=torch.tensor([0]))
        >>> truth = GroundTruth(1, lambda i: cat, ['cat', 'dog'])
        >>> scorer = ClassificationScorer(Evaluator(Accuracy()), truth)
        >>> prediction = {'pred_score': torch.tensor([0.75, 0.25])}
        >>> scorer.image_score(0, prediction), scorer.margin(0, prediction)
        (1.0, 0.5)
    """

    task = 'classification'
    fields = ('pred_score', 'pred_label')
    score_name = 'accuracy'

    def check_evaluator(self) -> None:
        known = [m for m in self.evaluator.metrics if type(m).__name__ == 'Accuracy']
        if not known:
            raise ValueError(
                'Robustness of a classifier is compared by its accuracy; set '
                "test_evaluator to dict(type='Accuracy')."
            )
        for metric in known:
            if 1 not in metric.topk or tuple(metric.thrs) not in ((0.0,), (None,)):
                raise ValueError(
                    f'Accuracy with topk={metric.topk} and thrs={metric.thrs} does not '
                    'say which images are classified rightly; leave thrs out and let '
                    '1 be in topk.'
                )

    def check_sample(self, sample: Any) -> None:
        if 'gt_label' not in sample or sample.gt_label.numel() != 1:
            raise ValueError(
                'The test set has no one true class for each image; add PackInputs to '
                'the test pipeline, and a dataset with gt_label.'
            )

    def read(self, output: Any) -> dict[str, Tensor]:
        missing = [name for name in self.fields if name not in output]
        if missing:
            raise ValueError(
                f'Robustness is measured on pred_score and pred_label, and this model '
                f'predicts no {missing[0]}.'
            )
        return {name: output.get(name).detach().cpu() for name in self.fields}

    def put(self, sample: Any, prediction: Prediction) -> None:
        sample.set_pred_score(prediction['pred_score'])
        sample.set_pred_label(prediction['pred_label'])

    def label(self, index: int) -> int:
        """Number of an image's true class."""
        return int(self.truth.sample(index).gt_label)

    def image_score(self, index: int, prediction: Prediction) -> float:
        scores = prediction['pred_score']
        # Accuracy may take the class of an image from scores that are no numbers.
        if not bool(scores.isfinite().all()):
            return 0.0
        # By the metric itself, so that ties and scores below its threshold count alike.
        metric = self._accuracy
        right = metric.calculate(
            scores[None], [self.label(index)], metric.topk, metric.thrs
        )
        return float(right[metric.topk.index(1)][0] > 0)

    @property
    def _accuracy(self) -> BaseMetric:
        """The metric that is compared."""
        metrics = self.evaluator.metrics
        return next(m for m in metrics if type(m).__name__ == 'Accuracy')

    def margin(self, index: int, prediction: Prediction) -> float:
        """Score of the true class, less the highest of the others."""
        scores = prediction['pred_score'].numpy().astype(float)
        label = self.label(index)
        return float(scores[label] - np.delete(scores, label).max())

    def per_class(self, record: RunRecord) -> dict[str, float]:
        """Accuracy on the images of each class that there are images of."""
        scores: dict[int, list[float]] = defaultdict(list)
        for i, prediction in enumerate(record.predictions):
            scores[self.label(i)].append(self.image_score(i, prediction))
        names = self.truth.classes
        return {
            names[k] if k < len(names) else str(k): float(np.mean(scores[k]))
            for k in sorted(scores)
        }

    def mean_table(self, metric: str, record: RunRecord) -> MeanTable | None:
        """Which images are classified rightly, if that is what the metric counts."""
        return MeanTable(record.score) if metric.endswith(PERCENT) else None

    def score_spread(self, record: RunRecord) -> float:
        """Log of the highest over the lowest score of an image, the middle of all."""
        scores = [p['pred_score'].double().clamp(min=1e-30) for p in record.predictions]
        return float(np.median([float((x.max() / x.min()).log()) for x in scores]))

    def differ(self, first: Prediction, second: Prediction) -> bool:
        """Whether any class's score differs by more than rounding.

        Scores that are nearly equal differ by little even if another class leads.
        """
        one, other = first['pred_score'], second['pred_score']
        apart = (one - other).abs().max()
        return bool(apart > max(1e-3 * float(one.max() - one.min()), 1e-6))
