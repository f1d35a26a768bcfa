"""The main metric over a set from tables, which must agree with the evaluator."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log

from .cross_fitting import side_by_side
from .entry import Entry
from .greedy import lowest_map
from .image_tables import EvaluationsTable, ImageTable, Matches, value_of
from .record import RunRecord
from .record_tables import RecordTables
from .results import Intervals
from .row_tables import RowTables
from .scoring import Scorer
from .uncertainty import Bootstrap, share_kept


class SetMetric:
    """Takes the main metric of records fast, and of draws of their images.

    Args:
        scorer: Scorer of the task, with the evaluator.
        clean: The clean row, as the evaluator measured it.
        record: Record of the clean run.
        bootstrap: How intervals are made.

    Attributes:
        problem: Sentence that says why nothing here is to be used; empty if all is.
        tables: Table of each row, by its key.
    """

    def __init__(
        self,
        scorer: Scorer,
        clean: Entry,
        record: RunRecord,
        bootstrap: Bootstrap | None = None,
    ) -> None:
        self.bootstrap = bootstrap or Bootstrap()
        self.metric, self.clean_key = clean.metric, clean.key
        self.num_images = len(record.predictions)
        self.tables: dict[str, ImageTable] = {}
        self._values: dict[str, np.ndarray] = {}
        self.scorer = scorer
        self.record_tables = RecordTables(scorer, clean.metric)
        self.matcher = self.record_tables.matcher
        self.problem = self._check(clean, record)

    def _check(self, clean: Entry, record: RunRecord) -> str:
        end = 'so there are no intervals, and worst cases are chosen image by image.'
        table = self._table(record)
        if table is None:
            return f'{self.metric} is counted by the evaluator alone, {end}'
        told = self._told_apart(clean, table)
        return told and f'{told}, {end}'

    def _told_apart(self, entry: Entry, table: ImageTable) -> str:
        images = 'the clean images' if entry.role == 'clean' else entry.name
        return self.record_tables.told_apart(
            images, entry.value, table, self.num_images
        )

    def _table(self, record: RunRecord) -> ImageTable | None:
        """Table of a record, of the mean over its evaluations if there are several."""
        if not record.others:
            return self.record_tables.table(record)
        tables = [self.record_tables.table(one) for one in record.evaluations]
        known = [table for table in tables if table is not None]
        return EvaluationsTable(known) if len(known) == len(tables) else None

    def matches(self, record: RunRecord) -> Matches:
        """Matched detections of a record, matched once."""
        return self.record_tables.matches(record)

    def fill(self, entry: Entry, record: RunRecord) -> None:
        """Set the intervals of a row that is measured; the clean one comes first."""
        table = None if self.problem else self._table(record)
        if table is None:
            return
        if told := self._told_apart(entry, table):
            print_log(f'{told}: no interval.', 'current', logging.WARNING)
            return
        values = self.bootstrap.values(table, self.num_images)
        self.tables[entry.key], self._values[entry.key] = table, values
        value = value_of(table, self.num_images)
        entry.interval = self.bootstrap.interval(values, value)
        if entry.role != 'clean':
            share = share_kept(values, self._values[self.clean_key])
            entry.kept_interval = self.bootstrap.paired_interval(share)
        self._fill_ends(entry, value)

    def _fill_ends(self, entry: Entry, value: float) -> None:
        """Set intervals where draws say nothing, as all images are alike.

        A mAP of which no image keeps anything, or all keep all, is taken for the share
        of images that do.
        """
        count = sum(map(self.scorer.can_be_lost, range(self.num_images)))
        if value in (0, 1) and count:
            entry.interval = self.bootstrap.interval_of_alike(value, count)
        known = entry.kept_interval
        ends = ((0, 0), (1, 1)) if self.matcher is None else ((0, 0),)
        if known is not None and known in ends:
            clean = self._values[self.clean_key].mean()
            right = max(1, round(clean * count))
            entry.kept_interval = self.bootstrap.interval_of_alike(known[0], right)

    @property
    def chooses(self) -> bool:
        """Whether worst cases can be chosen by the metric itself."""
        return self.matcher is not None and not self.problem

    def lowest(
        self, runs: Sequence[RunRecord], starts: Sequence[np.ndarray]
    ) -> np.ndarray:
        """Choose a run for each image so that the metric is low.

        Args:
            runs: Records of the runs.
            starts: Choices to begin at the best of.

        Returns:
            Numbers of runs, (N,).
        """
        matches = [self.matches(run) for run in runs]
        return lowest_map(self.matcher.rule, matches, starts)

    def lowest_mean(
        self, runs: Sequence[Sequence[RunRecord]], starts: Sequence[np.ndarray]
    ) -> np.ndarray:
        """Choose a run for each image so that the mean over evaluations is low.

        Args:
            runs: Some evaluations of each run.
            starts: Choices to begin at the best of.

        Returns:
            Numbers of runs, (N,).
        """
        matches = [[self.matches(one) for one in run] for run in runs]
        return lowest_map(*side_by_side(self.matcher.rule, matches), starts)

    def save(self, out: Path, image_ids: Sequence[Any]) -> Intervals:
        """Write the tables of all rows beside a report.

        Args:
            out: File of the report.
            image_ids: Ids of the images.

        Returns:
            What the report says of its intervals.
        """
        how, name = self.bootstrap, ''
        if self.tables:
            name = f'{out.stem}.tables.npz'
            ids = [str(image) for image in image_ids]
            RowTables(ids, self.metric, self.tables).save(out.with_name(name))
        return Intervals(how.resamples, how.level, how.seed, name, self.problem)
