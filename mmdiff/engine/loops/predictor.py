"""Evaluations of a batch: answers of a model, with seeds for what it draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mmengine.runner import Runner
from mmengine.runner.amp import autocast

from mmdiff.attacks import AttackStats
from mmdiff.evaluation.record import RunRecord
from mmdiff.evaluation.scoring import Scorer

from .batches import Answer, copied
from .robust_plan import Run
from .seeds import batch_seed, seeded


class Predictor:
    """Predicts batches of a run.

    Args:
        runner: Runner with the model.
        scorer: Scorer of the task.
        fp16: Autocast the predictions.
    """

    def __init__(self, runner: Runner, scorer: Scorer, fp16: bool) -> None:
        self.runner = runner
        self.scorer = scorer
        self.fp16 = fp16

    def record(
        self, run: Run, span: range, answer: Answer, losses: list[float]
    ) -> RunRecord:
        """Put what one evaluation answered on a batch into a record, without costs."""
        predictions, rounded = answer
        scores = [self.scorer.image_score(i, p) for i, p in zip(span, predictions)]
        return RunRecord(
            predictions,
            np.array(losses, float),
            np.array(scores, float),
            AttackStats(),
            rounded=rounded if run.of_row else [],
        )

    def answer(
        self,
        run: Run,
        span: range,
        data: dict,
        inputs: Sequence[torch.Tensor] | torch.Tensor | None,
        seed: int,
    ) -> Answer:
        """Predict images, and those in whole pixel values if they are others."""
        predictions = rounded = self._predict(run, span, data, seed)
        if inputs is not None:
            rounded = self._predict(run, span, {**data, 'inputs': inputs}, seed)
        return predictions, rounded

    def _predict(self, run: Run, span: range, data: dict, seed: int) -> list[dict]:
        """Predict one evaluation; the data stay as they are for the next one."""
        name = run.seeded_as or run.name
        with (
            seeded(batch_seed(name, span.start, seed)),
            autocast(enabled=self.fp16),
        ):
            outputs = self.runner.model.test_step(copied(data))
        return [self.scorer.read(output) for output in outputs]
