"""From the records of runs to rows of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmdiff.attacks import Budget
from mmdiff.evaluation.entry import Cost, Entry, Sanity, main_metric
from mmdiff.evaluation.record import RunRecord
from mmdiff.evaluation.scoring import Scorer
from mmdiff.evaluation.worst_case import strongest_restart, worst_case, worst_run

from .robust_plan import Step


@dataclass
class Outcome:
    """What one attack left.

    Args:
        step: The attack and its row.
        runs: Record of each restart.
        record: Of each image the restart of highest objective: what the row measures.
        candidates: Main metric and record of all that the row counts.
    """

    step: Step
    runs: list[RunRecord]
    record: RunRecord
    candidates: list[tuple[float, RunRecord]]


class RowFiller:
    """Fill rows with what records are worth, on all ranks alike.

    Args:
        scorer: Scorer of the task.
        rank: Number of this process; the first one alone measures by class.
        world: Number of processes.
    """

    def __init__(self, scorer: Scorer, rank: int = 0, world: int = 1) -> None:
        self.scorer = scorer
        self.rank = rank
        self.world = world

    def metrics(self, record: RunRecord) -> dict[str, float]:
        """Metrics of the evaluator."""
        return self.scorer.measure(record, self.rank, self.world)

    def measure(self, entry: Entry, record: RunRecord) -> None:
        """Fill a row with what a record is worth, and what it cost."""
        entry.num_images = len(record.predictions)
        entry.metrics = self.metrics(record)
        entry.image_score = float(record.score.mean())
        if self.rank == 0:
            entry.per_class = self.scorer.per_class(record)
        entry.cost = Cost(
            seconds=round(record.seconds, 2),
            grad_evals=record.stats.grad_evals,
            queries=record.stats.queries,
            peak_mem=record.peak_mem,
        )

    def fill(self, step: Step, runs: list[RunRecord]) -> Outcome:
        """Fill the row of an attack with what its restarts left."""
        entry, record = step.entry, strongest_restart(runs)
        self.measure(entry, record)
        candidates = [(entry.value, record)]
        if len(runs) > 1:
            worst = worst_run(runs)
            entry.metrics_worst_restart = self.metrics(worst)
            worst_restart = main_metric(entry.metrics_worst_restart)
            candidates.append((worst_restart, worst))
        entry.sanity = Sanity.of(
            record.stats, record.blocked, objective_ends(runs, record), entry.eot or 1
        )
        return Outcome(step, runs, record, candidates)

    def worst_case(
        self, budget: Budget, clean: RunRecord, inside: Sequence[Outcome]
    ) -> Entry:
        """Make the row of the worst of no attack and all attacks within a budget.

        Args:
            budget: The budget.
            clean: Record of the clean run.
            inside: Outcomes of attacks that may do no more than the budget allows.
        """
        runs = [clean, *(run for outcome in inside for run in outcome.runs)]
        record = worst_case(
            runs,
            np.array([self.scorer.margins(run) for run in runs]),
            self.scorer.mean_per_class,
            lambda together: main_metric(self.metrics(together)),
            [pair for outcome in inside for pair in outcome.candidates],
        )
        members = [outcome.step.entry for outcome in inside]
        keys = [entry.key for entry in members if entry.budget == budget]
        entry = Entry.worst_case(budget, keys)
        self.measure(entry, record)
        lowest = np.stack([run.score for run in runs]).min(0)
        entry.image_score = float(lowest.mean())
        return entry


def objective_ends(
    runs: Sequence[RunRecord], record: RunRecord
) -> tuple[float, float] | None:
    """Mean objective of an image before and after an attack; ``None`` without one.

    Args:
        runs: Record of each restart.
        record: All of them put together, with the account of all.
    """
    losses = np.stack([run.loss for run in runs])
    start, count = record.objective_start(), int(np.isfinite(losses).sum())
    if start is None or not count:
        return None
    return start / count, float(np.nansum(losses) / count)
