"""Values with 95 % intervals over images: what other images would have given.

A mean over images is bootstrapped (Efron 1979). A rank, a mean over pairs of images, or
a similarity is not: a draw with replacement has images twice, which lowers a rank and
puts pairs at distance 0. These get a jackknife that leaves out one of 20 groups of
images at a time (Efron and Tibshirani 1993, chapter 11; of means over pairs, Arvesen
1969). Intervals are of the images that are measured: not of those that probes or
autoencoders are fitted on, nor of seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mmdiff.evaluation.image_tables import MeanTable
from mmdiff.evaluation.uncertainty import Bootstrap, Interval

BOOTSTRAP, JACKKNIFE, NONE = 'bootstrap', 'jackknife', 'none'
GROUPS = 20


@dataclass(frozen=True)
class Estimate:
    """A value with its interval.

    Args:
        value: The value.
        interval: Its 95 % interval over images; ``None``: there is none.
        method: ``'bootstrap'``, ``'jackknife'`` or ``'none'``.
    """

    value: float
    interval: Interval | None = None
    method: str = NONE

    def say(self, form: str = '.3f') -> str:
        """The value, and its interval in brackets."""
        text = format(self.value, form)
        if self.interval is None:
            return text
        low, high = (format(end, form) for end in self.interval)
        return f'{text} [{low}, {high}]'


def estimate_mean(values: np.ndarray, bootstrap: Bootstrap) -> Estimate:
    """Mean over images, (N,), with percentiles of the bootstrap.

    Example:
        >>> estimate_mean(np.full(9, 0.5), Bootstrap()).say()
        '0.500 [0.500, 0.500]'
    """
    draws = bootstrap.values(MeanTable(values), len(values))
    return Estimate(float(values.mean()), bootstrap.paired_interval(draws), BOOTSTRAP)


def estimate_share(values: np.ndarray, bootstrap: Bootstrap) -> Estimate:
    """Mean over images of scores from 0 to 1, (N,), as accuracies are."""
    mean = float(values.mean())
    if mean in (0, 1):  # all draws are alike, and say nothing
        ends: Interval | None = bootstrap.interval_of_alike(mean, len(values))
    else:
        draws = bootstrap.values(MeanTable(values), len(values))
        ends = bootstrap.interval(draws, mean)
    return Estimate(mean, ends, BOOTSTRAP)


def estimate_ratio(
    parts: np.ndarray, wholes: np.ndarray, bootstrap: Bootstrap
) -> Estimate:
    """Sum of parts over the sum of wholes, of images, (N,) each."""
    weights = bootstrap.weights(len(parts))
    draws = (weights @ parts) / (weights @ wholes)
    ends = bootstrap.paired_interval(draws)
    return Estimate(float(parts.sum() / wholes.sum()), ends, BOOTSTRAP)


def jackknife(
    statistic: Callable[[np.ndarray], float], num_images: int, seed: int = 0
) -> Estimate:
    """A statistic of images, with the interval of a jackknife of groups.

    Args:
        statistic: Gives the value for the numbers of some images, (n,).
        num_images: Number of all images.
        seed: Of what images are in a group together.

    Example:
        >>> values = np.arange(400.0)
        >>> jackknife(lambda kept: values[kept].mean(), 400).say('.0f')
        '200 [189, 210]'
    """
    from scipy.stats import t

    value = statistic(np.arange(num_images))
    groups = min(GROUPS, num_images)
    order = np.random.default_rng(seed).permutation(num_images)
    left_out = np.array_split(order, groups)
    values = [
        statistic(np.setdiff1d(np.arange(num_images), group)) for group in left_out
    ]
    deviations = np.array(values) - np.mean(values)
    error = np.sqrt((groups - 1) / groups * (deviations**2).sum())
    reach = float(t.ppf(0.975, groups - 1) * error)
    return Estimate(
        float(value), (float(value) - reach, float(value) + reach), JACKKNIFE
    )
