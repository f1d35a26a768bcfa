"""What several attacks leave at worst: image by image, and over the set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from mmdiff.attacks import AttackStats

from .record import RunRecord


def strongest_restart(runs: Sequence[RunRecord]) -> RunRecord:
    """Take of each image the run of highest objective, as an attack itself would."""
    losses = np.stack([run.loss for run in runs])
    return RunRecord.choose(runs, np.nan_to_num(losses, nan=-np.inf).argmax(0))


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


def worst_case(
    runs: Sequence[RunRecord],
    margins: np.ndarray,
    mean_per_class: Callable[[RunRecord], float],
    main_metric: Callable[[RunRecord], float],
    alone: Sequence[tuple[float, RunRecord]],
) -> RunRecord:
    """What an adversary with several attacks leaves at worst.

    Of the :func:`choices`, the one with the lowest mean over classes. The metric may
    count otherwise than that choice does (COCO), and one attack may do more to the
    images that another brought to score 0: where one attack alone leaves less, it
    counts.

    Args:
        runs: Records of the clean run and of all attacks within the budget.
        margins: Margin of each run and image, (R, N).
        mean_per_class: Measures a record by the mean over classes.
        main_metric: Measures a record by the main metric.
        alone: Main metric and record of each attack within the budget by itself.

    Returns:
        Its cost is 0: it is counted in the runs.
    """
    scores = np.stack([run.score for run in runs])
    ways = [RunRecord.choose(runs, pick) for pick in choices(scores, margins)]
    together = min(ways, key=mean_per_class)
    candidates = [(main_metric(together), together), *alone]
    _, record = min(candidates, key=lambda pair: pair[0])
    return replace(record, stats=AttackStats(), seconds=0.0)
