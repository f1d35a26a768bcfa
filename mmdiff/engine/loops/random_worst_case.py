"""Worst case and worst restart of a model that draws, from several evaluations.

:mod:`mmdiff.evaluation.cross_fitting` says why choices are not made on the evaluations
that measure them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from mmengine.dist import broadcast_object_list

from mmdiff.attacks import AttackStats, Budget
from mmdiff.evaluation.cross_fitting import CrossFit, cross_fit, lowest_mean, split
from mmdiff.evaluation.entry import Entry, main_metric
from mmdiff.evaluation.evaluations import mean, mean_by_name
from mmdiff.evaluation.record import RunRecord
from mmdiff.evaluation.worst_case import choices

if TYPE_CHECKING:
    from .rows import Outcome, RowFiller

Seen = Sequence[Sequence[RunRecord]]  # some evaluations of each run


@dataclass
class Way:
    """One way to attack all images, as it is measured.

    Args:
        value: Main metric, mean over evaluations.
        record: What it left in each evaluation.
        chosen: Name of the run of each image, for each fold of evaluations.
    """

    value: float
    record: RunRecord
    chosen: list[list[str]]


class RandomWorstCase:
    """Makes rows of what several runs leave together, on all ranks alike.

    The worst case is the lowest of these ways, each a mean over evaluations on which
    none of its choices was made: the choice for each image; no attack; each attack
    alone; each worst case of a smaller budget that is made of these runs. So no row is
    below its worst case. Taking the lowest of these few means of the whole set is a
    choice too; it can be too low by about what the mean itself errs, the spread between
    evaluations over the square root of their number.

    Args:
        rows: Measures records.
    """

    def __init__(self, rows: RowFiller) -> None:
        self.rows = rows
        self._restarts: dict[str, Way] = {}  # of attacks with restarts, by their keys
        self._worst: list[Way] = []
        self._clean: Way | None = None

    def worst_restart(
        self, key: str, names: Sequence[str], runs: Sequence[RunRecord]
    ) -> dict[str, float]:
        """Metrics where of each image the restart counts that leaves the least.

        Args:
            key: Key of the attack's row.
            names: Names of its runs.
            runs: Record of each restart.
        """
        fitted = cross_fit(runs, lowest_mean)
        metrics = self._metrics(fitted.record)
        way = Way(main_metric(metrics), fitted.record, _named(fitted, names))
        self._restarts[key] = way
        return metrics

    def row(self, budget: Budget, clean: RunRecord, inside: Sequence[Outcome]) -> Entry:
        """Make the row of the worst of no attack and all attacks within a budget.

        Args:
            budget: The budget.
            clean: Record of the clean run.
            inside: Outcomes of attacks that may do no more than the budget allows.
        """
        runs = [clean, *(run for outcome in inside for run in outcome.runs)]
        names = ['clean', *(run.name for o in inside for run in o.step.runs)]
        folds = len(split(len(clean.evaluations)))
        ways = [self._untouched(clean, folds), *self._alone(inside, folds)]
        ways += [way for way in self._worst if _is_made_of(way, names)]
        # Their choices for images, too, were made on the other folds, or by objectives.
        starts = iter([_picks(ways, names, fold) for fold in range(folds)])
        fitted = cross_fit(runs, lambda seen: self._choose(seen, next(starts)))
        value = main_metric(self._metrics(fitted.record))
        together = Way(value, fitted.record, _named(fitted, names))
        worst = min([together, *ways], key=lambda way: way.value)
        self._worst.append(worst)
        members = [outcome.step.entry for outcome in inside]
        keys = [entry.key for entry in members if entry.budget == budget]
        entry = Entry.worst_case(budget, keys)
        record = replace(worst.record, stats=AttackStats(), seconds=0.0)
        self.rows.measure(entry, record)
        by_score = cross_fit(runs, lowest_mean).record.mean_score
        entry.image_scores = by_score.tolist()
        entry.image_score = float(by_score.mean())
        entry.evaluations.folds = fitted.folds
        entry.evaluations.chosen = worst.chosen
        entry.chosen_by = 'metric' if self._by_metric() else 'score'
        return entry

    def _metrics(self, record: RunRecord) -> dict[str, float]:
        """Mean of the evaluator's metrics over evaluations."""
        return mean_by_name([self.rows.metrics(one) for one in record.evaluations])

    def _untouched(self, clean: RunRecord, folds: int) -> Way:
        """What no attack leaves."""
        if self._clean is None:
            value = main_metric(self._metrics(clean))
            chosen = [['clean'] * len(clean.predictions) for _ in range(folds)]
            self._clean = Way(value, clean, chosen)
        return self._clean

    def _alone(self, inside: Sequence[Outcome], folds: int) -> list[Way]:
        """What each attack leaves by itself."""
        ways = []
        for outcome in inside:
            entry, runs = outcome.step.entry, outcome.step.runs
            (_, pick), *_ = outcome.candidates
            chosen = [[runs[k].name for k in pick] for _ in range(folds)]
            ways.append(Way(entry.value, outcome.record, chosen))
            if entry.key in self._restarts:
                ways.append(self._restarts[entry.key])
        return ways

    def _by_metric(self) -> bool:
        """Whether choices are made by the metric itself, as the first rank says."""
        chooses = self.rows.set_metric is not None and self.rows.set_metric.chooses
        shared = [chooses]
        broadcast_object_list(shared)
        return shared[0]

    def _choose(self, seen: Seen, starts: Sequence[np.ndarray]) -> np.ndarray:
        """Choose a run for each image by the mean over some evaluations.

        Args:
            seen: The evaluations of each run.
            starts: Choices to begin at the best of, beside those by scores.
        """
        scores = np.stack([mean([one.score for one in run]) for run in seen])
        margins = np.stack(
            [mean([self.rows.margins_of(one) for one in run]) for run in seen]
        )
        ways = list(choices(scores, margins))
        if not self._by_metric():
            return min(ways, key=lambda pick: self._mean_per_class(seen, pick))
        shared: list[Any] = [None]
        if self.rows.rank == 0:
            shared = [self.rows.set_metric.lowest_mean(seen, [*ways, *starts])]
        broadcast_object_list(shared)
        return shared[0]

    def _mean_per_class(self, seen: Seen, pick: np.ndarray) -> float:
        """Mean over classes and evaluations of what a choice leaves."""
        chosen = [RunRecord.choose(runs, pick) for runs in _by_evaluation(seen)]
        return float(mean([self.rows.scorer.mean_per_class(one) for one in chosen]))


def _by_evaluation(seen: Seen) -> list[list[RunRecord]]:
    """Records of all runs in each evaluation, none with further ones behind it."""
    return [[replace(one, others=[]) for one in runs] for runs in zip(*seen)]


def _named(fitted: CrossFit, names: Sequence[str]) -> list[list[str]]:
    return [[names[run] for run in pick] for pick in fitted.picks]


def _picks(ways: Sequence[Way], names: Sequence[str], fold: int) -> list[np.ndarray]:
    """What some ways choose where one fold is measured, as numbers of runs."""
    number = {name: run for run, name in enumerate(names)}
    return [np.array([number[name] for name in way.chosen[fold]]) for way in ways]


def _is_made_of(way: Way, names: Sequence[str]) -> bool:
    """Whether a way is made of these runs alone."""
    return all(set(names) >= set(chosen) for chosen in way.chosen)
