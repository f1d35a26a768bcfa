"""What a metric is made of, image by image, from the record of a run."""

from __future__ import annotations

import math

from .image_tables import ApTable, ImageTable, Matches, value_of
from .record import RunRecord
from .scoring import Scorer


class RecordTables:
    """Makes the tables of one metric from records.

    Args:
        scorer: Scorer of the task, with the evaluator.
        metric: Name of the metric's value: ``'pascal_voc/mAP'``.

    Attributes:
        scorer: The scorer.
        matcher: Matcher of the detections that the metric counts; ``None`` where it
            counts none.
    """

    def __init__(self, scorer: Scorer, metric: str) -> None:
        self.scorer, self.metric = scorer, metric
        self.matcher = scorer.matcher(metric)
        self._matches: dict[int, tuple[RunRecord, Matches]] = {}

    def table(self, record: RunRecord) -> ImageTable | None:
        """Table of a record; ``None`` if the evaluator alone counts the metric."""
        if self.matcher is None:
            return self.scorer.mean_table(self.metric, record)
        return ApTable.of(self.matcher.rule, self.matches(record))

    def matches(self, record: RunRecord) -> Matches:
        """Matched detections of a record, matched once."""
        if id(record) not in self._matches:
            # The record is kept, or another one could come to have its id.
            self._matches[id(record)] = record, self.matcher.match(record.predictions)
        return self._matches[id(record)][1]

    def told_apart(
        self, images: str, measured: float, table: ImageTable, num_images: int
    ) -> str:
        """Say how a table differs from the evaluator; empty if it does not.

        Args:
            images: How the sentence calls the images: ``'the clean images'``.
            measured: The metric by the evaluator, as a share.
            table: The table.
            num_images: Number of images.
        """
        tolerance = 1e-4 if self.matcher is None else self.matcher.tolerance
        value = value_of(table, num_images)
        value = 0.0 if math.isnan(value) else value
        if abs(value - measured) <= tolerance:
            return ''
        return (
            f'{self.metric} of {images} is {measured:.5f} by the evaluator and '
            f'{value:.5f} from what is kept of single images'
        )
