"""What several attacks leave at worst: image by image, and over the set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from mmdiff.attacks import AttackStats

from .record import RunRecord

Candidate = tuple[float, np.ndarray]  # a metric, and the run chosen for each image


def strongest(runs: Sequence[RunRecord]) -> np.ndarray:
    """Number of the run of highest objective for each image, (N,).

    It is the restart that an attack itself would keep.
    """
    losses = np.stack([run.loss for run in runs])
    return np.nan_to_num(losses, nan=-np.inf).argmax(0)


def strongest_restart(runs: Sequence[RunRecord]) -> RunRecord:
    """Take of each image the run of highest objective."""
    return RunRecord.choose(runs, strongest(runs))


def worst_run(runs: Sequence[RunRecord]) -> RunRecord:
    """Take of each image the run of lowest score, of equals the first."""
    return RunRecord.choose(runs, lowest(runs))


def lowest(runs: Sequence[RunRecord]) -> np.ndarray:
    """Number of the run of lowest score for each image, (N,), of equals the first."""
    return np.stack([run.score for run in runs]).argmin(0)


def choices(scores: np.ndarray, margins: np.ndarray) -> Iterator[np.ndarray]:
    """Ways to choose a run for each image; the clean run is the first.

    Images that an attack brought to score 0 are as the first of those left them (no
    further attack is needed). All others are, first, as the run of lowest score left
    them, of equals the one of lowest margin: the same objects are found, say, but with
    lower scores or below more false ones, which counts over the set. Then, as no choice
    by image is the best one over the set: all as one attack left them.

    Args:
        scores: Score of each run and image, (R, N).
        margins: Margin of each run and image, (R, N)
            (:meth:`mmdiff.evaluation.scoring.Scorer.margin`).

    Yields:
        Numbers of runs, (N,).
    """
    fooled, first = scores[1:].min(0) == 0, 1 + scores[1:].argmin(0)
    tied = np.where(scores == scores.min(0), margins, np.inf).argmin(0)
    for pick in (tied, *range(1, len(scores))):
        yield np.where(fooled, first, pick)


def best_choice(
    runs: Sequence[RunRecord],
    ways: Sequence[np.ndarray],
    mean_per_class: Callable[[RunRecord], float],
) -> np.ndarray:
    """Of several choices, the one that leaves the lowest mean over classes.

    Args:
        runs: Records of the runs.
        ways: The choices (:func:`choices`).
        mean_per_class: Measures a record by the mean over classes.
    """
    return min(ways, key=lambda pick: mean_per_class(RunRecord.choose(runs, pick)))


def worst_case(
    runs: Sequence[RunRecord],
    together: Sequence[np.ndarray],
    main_metric: Callable[[RunRecord], float],
    alone: Sequence[Candidate],
) -> tuple[RunRecord, np.ndarray]:
    """What an adversary with several attacks leaves at worst.

    The metric may count otherwise than a choice by image does (COCO), and one attack
    may do more to the images that another brought to score 0: where one attack alone
    leaves less, it counts.

    Args:
        runs: Records of the clean run and of all attacks within the budget.
        together: Choices over all of them, (N,) each.
        main_metric: Measures a record by the main metric.
        alone: Main metric and choice of each attack within the budget by itself.

    Returns:
        The record, whose cost is 0 as it is counted in the runs, and the choice.
    """
    measured = [(main_metric(RunRecord.choose(runs, pick)), pick) for pick in together]
    _, pick = min([*measured, *alone], key=lambda pair: pair[0])
    record = RunRecord.choose(runs, pick)
    return replace(record, stats=AttackStats(), seconds=0.0), pick
