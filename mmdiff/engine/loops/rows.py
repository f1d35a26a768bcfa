"""From the records of runs to rows of the report."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from mmengine.dist import broadcast_object_list
from mmengine.logging import print_log

from mmdiff.attacks import Budget
from mmdiff.evaluation.entry import Cost, Entry, Sanity, main_metric
from mmdiff.evaluation.evaluations import (
    Evaluations,
    count_changing,
    mean_by_name,
)
from mmdiff.evaluation.record import RunRecord
from mmdiff.evaluation.results import Results
from mmdiff.evaluation.scoring import Scorer
from mmdiff.evaluation.set_metric import SetMetric
from mmdiff.evaluation.worst_case import (
    Candidate,
    best_choice,
    choices,
    lowest,
    strongest,
    worst_case,
)

from .random_worst_case import RandomWorstCase
from .robust_plan import Step


@dataclass
class Outcome:
    """What one attack left.

    Args:
        step: The attack and its row.
        runs: Record of each restart.
        record: Of each image the restart of highest objective: what the row measures.
        candidates: Main metric and choice of restarts of all that the row counts.
    """

    step: Step
    runs: list[RunRecord]
    record: RunRecord
    candidates: list[Candidate]


@dataclass
class Worst:
    """A worst case that was counted, for those of larger budgets.

    Args:
        value: Its main metric.
        chosen: Name of the run of each image.
    """

    value: float
    chosen: list[str]


class RowFiller:
    """Fill rows with what records are worth, on all ranks alike.

    Args:
        scorer: Scorer of the task.
        rank: Number of this process; the first one alone measures by class.
        world: Number of processes.

    Attributes:
        set_metric: The main metric from tables, on the first rank, once the clean row
            is measured.
    """

    def __init__(self, scorer: Scorer, rank: int = 0, world: int = 1) -> None:
        self.scorer = scorer
        self.rank = rank
        self.world = world
        self.set_metric: SetMetric | None = None
        self._worst: list[Worst] = []
        self._margins: dict[int, list[float]] = {}
        self._random = RandomWorstCase(self)

    def metrics(self, record: RunRecord) -> dict[str, float]:
        """Metrics of the evaluator."""
        return self.scorer.measure(record, self.rank, self.world)

    def measure(self, entry: Entry, record: RunRecord) -> None:
        """Fill a row with what a record is worth, and what it cost.

        Of several evaluations, all that is measured is the mean.
        """
        entry.num_images, all_of_it = len(record.predictions), record.evaluations
        metrics = [self.metrics(one) for one in all_of_it]
        entry.metrics = mean_by_name(metrics)
        entry.metrics_after_rounding = self._after_rounding(entry, record)
        entry.image_score = float(record.mean_score.mean())
        entry.image_scores = record.mean_score.tolist()
        if record.others:
            values = [main_metric(one) for one in metrics]
            differing = count_changing(record, self.scorer.differ)
            entry.evaluations = Evaluations([*range(len(values))], values, differing)
        if self.rank == 0:
            entry.per_class = mean_by_name([*map(self.scorer.per_class, all_of_it)])
            entry.broke = self.scorer.broke(record)
            if entry.role == 'clean' and entry.value >= 0:
                self.set_metric = SetMetric(self.scorer, entry, record)
                if self.set_metric.problem:
                    print_log(self.set_metric.problem, 'current', logging.WARNING)
            if self.set_metric is not None:
                self.set_metric.fill(entry, record)
        entry.cost = Cost(
            seconds=round(record.seconds, 2),
            grad_evals=record.stats.grad_evals,
            queries=record.stats.queries,
            peak_mem=record.peak_mem,
        )

    def _after_rounding(
        self, entry: Entry, record: RunRecord
    ) -> dict[str, float] | None:
        """Metrics on images in whole pixel values; ``None`` if they are not known."""
        several = record.evaluations
        if not all(one.rounded for one in several):
            return None
        if all(one.is_whole for one in several):
            return dict(entry.metrics)
        rounded = [replace(one, predictions=one.rounded) for one in several]
        return mean_by_name([self.metrics(one) for one in rounded])

    def save_tables(self, results: Results, out: Path) -> None:
        """Write what intervals are made of beside the report, which says how."""
        if self.set_metric is not None:  # it is on the first rank
            results.intervals = self.set_metric.save(out, results.image_ids)

    def fill(self, step: Step, runs: list[RunRecord]) -> Outcome:
        """Fill the row of an attack with what its restarts left."""
        entry, pick = step.entry, strongest(runs)
        record = RunRecord.choose(runs, pick)
        self.measure(entry, record)
        candidates = [(entry.value, pick)]
        if len(runs) > 1 and record.others:
            names = [run.name for run in step.runs]
            worst = self._random.worst_restart(entry.key, names, runs)
            entry.metrics_worst_restart = worst
        elif len(runs) > 1:
            pick = lowest(runs)
            entry.metrics_worst_restart = self.metrics(RunRecord.choose(runs, pick))
            candidates.append((main_metric(entry.metrics_worst_restart), pick))
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
        if clean.others:
            return self._random.row(budget, clean, inside)
        runs = [clean, *(run for outcome in inside for run in outcome.runs)]
        names = ['clean', *(run.name for o in inside for run in o.step.runs)]
        alone = [*self._alone(inside), *self._smaller(names)]
        scores = np.stack([run.score for run in runs])
        margins = np.array([self.margins_of(run) for run in runs])
        ways = list(choices(scores, margins))
        by_metric = self._lowest(runs, [*ways, *(pick for _, pick in alone)])
        if by_metric is None:
            together = best_choice(runs, ways, self.scorer.mean_per_class)
        else:
            together = by_metric
        record, pick = worst_case(
            runs, [together], lambda one: main_metric(self.metrics(one)), alone
        )
        members = [outcome.step.entry for outcome in inside]
        keys = [entry.key for entry in members if entry.budget == budget]
        entry = Entry.worst_case(budget, keys)
        self.measure(entry, record)
        entry.image_scores = scores.min(0).tolist()
        entry.image_score = float(scores.min(0).mean())
        entry.chosen = [names[run] for run in pick]
        entry.chosen_by = 'score' if by_metric is None else 'metric'
        # The worst case of a mean over images is the same when fooled ones are skipped.
        exact = self.scorer.mean_table(entry.metric, record) is not None
        entry.upper_bound = not exact and any(e.upper_bound for e in members)
        self._worst.append(Worst(entry.value, entry.chosen))
        return entry

    def _lowest(
        self, runs: Sequence[RunRecord], starts: Sequence[np.ndarray]
    ) -> np.ndarray | None:
        """Choice of lowest metric; ``None`` where it cannot be made by the metric."""
        pick = None
        if self.set_metric is not None and self.set_metric.chooses:
            pick = self.set_metric.lowest(runs, starts)
        shared = [pick]
        broadcast_object_list(shared)
        return shared[0]

    def _alone(self, inside: Sequence[Outcome]) -> list[Candidate]:
        """What each attack leaves by itself, as choices over all runs."""
        alone, first = [], 1
        for outcome in inside:
            alone += [(value, first + pick) for value, pick in outcome.candidates]
            first += len(outcome.runs)
        return alone

    def _smaller(self, names: Sequence[str]) -> list[Candidate]:
        """Worst cases so far that are made of these runs alone."""
        number = {name: i for i, name in enumerate(names)}
        return [
            (worst.value, np.array([number[name] for name in worst.chosen]))
            for worst in self._worst
            if number.keys() >= set(worst.chosen)
        ]

    def margins_of(self, run: RunRecord) -> list[float]:
        """Margin of every image of one evaluation, measured once."""
        if id(run) not in self._margins:
            self._margins[id(run)] = self.scorer.margins(run)
        return self._margins[id(run)]


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


def chosen_origin(
    entry: Entry, clean: RunRecord, inside: Sequence[Outcome]
) -> list[str]:
    """Run that each image of a worst case comes from; see ``RunRecord.origin``.

    Args:
        entry: Row of the worst case.
        clean: Record of the clean run.
        inside: Outcomes that it was made of.
    """
    records = {'clean': clean}
    for outcome in inside:
        names = [run.name for run in outcome.step.runs]
        records.update(zip(names, outcome.runs))
    return [records[run].origin[i] for i, run in enumerate(entry.chosen)]
