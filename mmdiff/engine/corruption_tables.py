"""What each test under corruption is made of, image by image, and intervals from it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import collect_results
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import Tensor

from mmdiff.attacks import AttackStats
from mmdiff.evaluation.entry import main_metric, main_metric_name
from mmdiff.evaluation.image_tables import ImageTable, value_of
from mmdiff.evaluation.record import RunRecord
from mmdiff.evaluation.record_tables import RecordTables
from mmdiff.evaluation.row_tables import RowTables
from mmdiff.evaluation.scoring import GroundTruth, Scorer, scorer_of
from mmdiff.evaluation.uncertainty import Bootstrap, Interval, share_kept
from mmdiff.utils.modules import task_of, unwrap

from .ground_truth import ground_truth_scale, metainfo_of
from .loops.image_set import ImageSet, image_names

# Difference of a metric and its table that is rounding: COCO's has three digits.
SAME = 1e-3


class PredictionsHook(Hook):
    """Keeps what the model predicts in a test, as far as it is measured.

    Args:
        scorer: Scorer of the task.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.predictions: list[dict[str, Tensor]] = []

    def before_test_epoch(self, runner: Runner) -> None:
        self.predictions = []

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        self.predictions += [self.scorer.read(output) for output in outputs or ()]


class CorruptionTables:
    """Tables of the main metric of every test, in a file beside the report.

    Args:
        runner: The runner; a hook is added to it.
        out: File of the report.

    Attributes:
        path: File of the tables.
        rows: Table of each test, by its name.
        problem: Why there are no intervals; empty if there are.
    """

    def __init__(self, runner: Runner, out: Path) -> None:
        self.path = out.with_name(f'{out.stem}.tables.npz')
        self.rows: dict[str, ImageTable] = {}
        self.problem = ''
        self.bootstrap = Bootstrap()
        self._loader = runner.test_loop.dataloader
        self._images = ImageSet(self._loader, lambda sample: None)
        self._hook: PredictionsHook | None = None
        try:
            self._hook = PredictionsHook(self._scorer(runner))
        except ValueError as error:
            self._give_up(str(error))
        else:
            runner.register_hook(self._hook)

    @property
    def num_images(self) -> int:
        """Number of images of every test."""
        return len(self._loader.dataset)

    def _give_up(self, why: str) -> None:
        self.problem, self.rows = why, {}
        print_log(f'There are no intervals: {why}', 'current', logging.WARNING)

    def _scorer(self, runner: Runner) -> Scorer:
        """Build the scorer, for evaluators and data that one can be made of.

        Raises:
            ValueError: For others.
        """
        evaluator = runner.test_loop.evaluator
        # A scorer takes out what it does not measure; the runner's own stays whole.
        own = Evaluator([copy.copy(metric) for metric in evaluator.metrics])
        own.dataset_meta = evaluator.dataset_meta
        task = task_of(type(unwrap(runner.model)))
        scale = ground_truth_scale(self._loader.dataset)
        classes = tuple(metainfo_of(self._loader.dataset).get('classes', ()))
        truth = GroundTruth(self.num_images, self._images.sample, classes, scale)
        scorer = scorer_of(task, own, truth)
        self._images.lighten = scorer.lighten
        scorer.check_sample(self._images.sample(0))
        return scorer

    def read(self) -> None:
        """Take over the tables of earlier tests; what is damaged is made again."""
        if self.problem or not self.path.exists():
            return
        try:
            self.rows = RowTables.load(self.path).rows
        except ValueError:
            self.rows = {}

    def knows(self, name: str, value: float) -> bool:
        """Whether a test need not be run again for its table.

        Args:
            name: Name of the test.
            value: What its main metric was: a table of another one is not its own.
        """
        if self.problem:
            return True
        if name not in self.rows:
            return False
        return abs(value_of(self.rows[name], self.num_images) - value) < SAME

    def add(self, name: str, metrics: dict[str, float]) -> None:
        """Make the table of the test that was just run, and write the file.

        Args:
            name: Name of the test.
            metrics: What the evaluator measured.
        """
        if self._hook is None:  # on all ranks
            return
        own = self._hook.predictions
        predictions = collect_results(own, self.num_images, 'cpu')
        if predictions is None or self.problem:  # known to the first rank alone
            return
        try:
            self.rows[name] = self._table(name, metrics, predictions)
        except ValueError as error:
            self._give_up(str(error))
            return
        ids = [str(one) for one in image_names(self._images)]
        RowTables(ids, main_metric_name(metrics), self.rows).save(self.path)

    def _table(
        self,
        name: str,
        metrics: dict[str, float],
        predictions: list[dict[str, Tensor]],
    ) -> ImageTable:
        """Table of a test.

        Raises:
            ValueError: If the evaluator alone can count the metric.
        """
        scorer = self._hook.scorer
        # One for each test: it keeps the records that it has seen.
        tables = RecordTables(scorer, main_metric_name(metrics))
        scores = [scorer.image_score(i, one) for i, one in enumerate(predictions)]
        nothing = np.zeros(len(predictions))
        record = RunRecord(predictions, nothing, np.array(scores), AttackStats())
        table = tables.table(record)
        if table is None:
            raise ValueError(f'{tables.metric} is counted by the evaluator alone.')
        value, count = main_metric(metrics), len(predictions)
        if told := tables.told_apart(name, value, table, count):
            raise ValueError(f'{told}.')
        return table

    def intervals(self, names: Sequence[str], clean: str) -> dict[str, Interval | None]:
        """Intervals of the means over tests.

        Args:
            names: Names of the tests.
            clean: Name of the test of clean images.

        Returns:
            ``'P'``, ``'mPC'``, ``'rPC'`` as :class:`Summary` has them; ``None`` where
            a table is missing.
        """
        ends = {'P': self.interval(clean), 'mPC': None, 'rPC': None}
        if not names or not self.rows.keys() >= {clean, *names}:
            return ends
        draws = np.mean([self._values(name) for name in names], 0)
        value = np.mean([value_of(self.rows[name], self.num_images) for name in names])
        ends['mPC'] = self.bootstrap.interval(draws, float(value))
        share = share_kept(draws, self._values(clean))
        ends['rPC'] = self.bootstrap.paired_interval(share)
        return ends

    def interval(self, name: str) -> Interval | None:
        """Interval of one test; ``None`` if there is no table of it."""
        if name not in self.rows:
            return None
        value = value_of(self.rows[name], self.num_images)
        return self.bootstrap.interval(self._values(name), value)

    def describe(self) -> dict[str, Any]:
        """What the report says of its intervals."""
        return {**asdict(self.bootstrap), 'problem': self.problem}

    def _values(self, name: str) -> np.ndarray:
        return self.bootstrap.values(self.rows[name], self.num_images)
