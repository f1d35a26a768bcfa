"""Choose attacks for each image of a randomised model without choosing lucky draws.

A worst case takes of each image the attack that leaves the least. Where a model draws,
what an attack leaves is measured with noise, and the least of several noisy values is
below the least of their means, the more so the more attacks there are: attacks that do
equal harm, or none, would seem to do more together. An adversary does not know what
the model is going to draw, so he has to choose before it does.

So an attack is chosen by some evaluations and measured in others: evaluations are split
into folds; the choice that is measured in one fold is made by the mean over all others.
Each evaluation is measured once, with a choice that never saw it. The mean over
evaluations is then, but for chance, what the choices really do. It is an upper bound of
what the best choice would do, which takes more evaluations to find, and it is never too
low by the choice of images: the cross-validation estimator of van Hasselt, "Estimating
the Maximum Expected Value" (arXiv:1302.7175, 2013), where the maximum over samples is
shown to be biased in the other direction; the split itself is that of Stone,
"Cross-Validatory Choice and Assessment of Statistical Predictions" (1974). Why one draw
misleads whoever evaluates a randomised defence: Lucas et al., "Randomness in ML
Defenses Helps Persistent Attackers and Hinders Evaluators" (2023).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .evaluations import mean
from .image_tables import ApRule, Matches
from .record import RunRecord

# More folds choose by more evaluations, and take longer.
FOLDS = 4
# Chooses a run for each image, (N,), by some evaluations of each run.
Chooser = Callable[[Sequence[Sequence[RunRecord]]], np.ndarray]


@dataclass
class CrossFit:
    """Evaluations that are measured with choices made on others.

    Args:
        record: Of each evaluation and image, what the chosen run left.
        folds: Numbers of the evaluations measured by one choice, for each choice.
        picks: The choices, numbers of runs, (N,) each.
    """

    record: RunRecord
    folds: list[list[int]]
    picks: list[np.ndarray]


def split(count: int) -> list[list[int]]:
    """Folds of evaluations: at most :data:`FOLDS`, as equal as can be.

    Example:
        >>> split(6), split(2)
        ([[0, 4], [1, 5], [2], [3]], [[0], [1]])
    """
    folds = min(count, FOLDS)
    return [list(range(first, count, folds)) for first in range(folds)]


def cross_fit(runs: Sequence[RunRecord], choose: Chooser) -> CrossFit:
    """Choose runs by some evaluations and measure the choice in the others.

    Args:
        runs: Records of runs on the same images, of two or more evaluations each.
        choose: Makes a choice by the evaluations that it is given of each run.
    """
    count = len(runs[0].evaluations)
    measured: dict[int, RunRecord] = {}
    folds, picks = split(count), []
    for fold in folds:
        seen = [k for k in range(count) if k not in fold]
        pick = choose([[run.evaluations[k] for k in seen] for run in runs])
        picks.append(pick)
        for k in fold:
            single = [replace(run.evaluations[k], others=[]) for run in runs]
            measured[k] = RunRecord.choose(single, pick)
    first, *others = [measured[k] for k in range(count)]
    return CrossFit(replace(first, others=others), folds, picks)


def lowest_mean(runs: Sequence[Sequence[RunRecord]]) -> np.ndarray:
    """Number of the run of lowest mean score for each image, of equals the first."""
    return np.stack([mean([one.score for one in run]) for run in runs]).argmin(0)


def side_by_side(
    rule: ApRule, runs: Sequence[Sequence[Matches]]
) -> tuple[ApRule, list[Matches]]:
    """Let classes of different evaluations be different classes.

    The mAP over all of these is the mean of the mAPs of the evaluations.

    Args:
        rule: How the metric counts one evaluation.
        runs: Matched detections of the evaluations of each run.
    """
    classes, joined = rule.objects.shape[1], []
    for run in runs:
        shifted = [
            replace(one, labels=one.labels + number * classes)
            for number, one in enumerate(run)
        ]
        joined.append(Matches.join(shifted))
    tiled = replace(rule, objects=np.tile(rule.objects, (1, len(runs[0]))))
    return tiled, joined
