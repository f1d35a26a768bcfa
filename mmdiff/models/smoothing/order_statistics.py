"""Which order statistics bound a median under attack (Chiang et al. 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom, norm

# Four coordinates, each from below and from above.
BOUNDS_PER_BOX = 8


@dataclass(frozen=True)
class Ranks:
    """Order statistics of N noisy copies that bound the median within a radius.

    Args:
        lower: Rank of the lower bound, 1 is the smallest of the copies.
        upper: Rank of the upper bound, N is the largest.
    """

    lower: int
    upper: int


def attacked_percentile(radius: float, sigma: float) -> float:
    """Return the percentile that bounds an attacked median from above.

    ``Phi(Phi^-1(1/2) + radius / sigma)``: for every ``|d| <= radius`` the median of
    ``f(x + d + noise)`` is at most this percentile of ``f(x + noise)``, and at least
    the percentile of one minus it (Chiang et al. 2020, Lemma 1).

    Args:
        radius: L2 norm of the attack.
        sigma: Standard deviation of the noise, in the same units.

    Example:
        >>> round(attacked_percentile(0.36, 0.25), 4)
        0.9251
    """
    return float(norm.cdf(radius / sigma))


def ranks(copies: int, radius: float, sigma: float, alpha: float) -> Ranks | None:
    """Choose the order statistics that bound the percentiles of an attacked median.

    The number of N copies below the percentile p is binomial, and so the q-th smallest
    copy is at or above it with a probability of at least ``P(Bin(N, p) <= q - 1)``: the
    smallest such q with one of ``1 - alpha / 8`` is the upper rank, for a box has four
    coordinates of two bounds each (Bonferroni). The lower rank mirrors it.

    Args:
        copies: Number of noisy copies, N.
        radius: L2 norm of the attack.
        sigma: Standard deviation of the noise, in the same units.
        alpha: Probability that any of the eight bounds of a box is wrong, at most.

    Returns:
        ``None`` if the largest of so few copies is no bound.

    Example:
        >>> ranks(2000, 0.36, 0.25, 8e-5)
        Ranks(lower=102, upper=1899)
        >>> ranks(100, 0.36, 0.25, 8e-5) is None
        True
    """
    p = attacked_percentile(radius, sigma)
    above = binom.sf(np.arange(copies), copies, p)  # P(Bin > k), k = 0..N-1
    enough = np.flatnonzero(above <= alpha / BOUNDS_PER_BOX)
    if len(enough) == 0:
        return None
    upper = int(enough[0]) + 1
    return Ranks(copies + 1 - upper, upper)


def copies_needed(radius: float, sigma: float, alpha: float) -> float:
    """Return how few copies have a bound for a radius: the largest of them.

    Args:
        radius, sigma, alpha: See :func:`ranks`.

    Returns:
        A whole number; infinity where the percentile is that of all copies.

    Example:
        >>> copies_needed(0.36, 0.25, 8e-5)
        148
    """
    p = attacked_percentile(radius, sigma)
    if p >= 1:
        return math.inf
    # P(all N copies are below the percentile) = p^N.
    needed = math.ceil(math.log(alpha / BOUNDS_PER_BOX) / math.log(p))
    return max(needed, 1)
