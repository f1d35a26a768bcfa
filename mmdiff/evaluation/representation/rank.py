"""How many directions a representation uses.

``effective rank = exp(-sum_i p_i log p_i)`` with ``p_i = s_i / sum_j s_j`` and ``s_i``
the singular values of the features less their mean (Roy and Vetterli 2007, "The
effective rank: a measure of effective dimensionality"): between 1 and ``min(N - 1,
d)``. Beside it stands the number of principal components that have a share of the
variance.
"""

from __future__ import annotations

import numpy as np


def singular_values(features: np.ndarray) -> np.ndarray:
    """Singular values of the features less their mean, the highest first.

    Args:
        features: (N, d).

    Raises:
        ValueError: If the features are the same for every image.
    """
    from scipy.linalg import svdvals

    values = np.asarray(features, float)
    singular = svdvals(values - values.mean(0))
    # What rounding leaves of a constant.
    if singular[0] <= 1e-10 * max(np.abs(values).max(), 1e-30) * len(values) ** 0.5:
        raise ValueError(
            'The features are the same for every image, so they have no directions.'
        )
    return singular


def effective_rank(singular: np.ndarray) -> float:
    """Effective rank of a matrix, from its singular values.

    Example:
        >>> round(effective_rank(np.ones(5)), 6)
        5.0
    """
    shares = np.asarray(singular, float) / np.sum(singular)
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def components_for(singular: np.ndarray, share: float) -> int:
    """Number of principal components that together have a share of the variance.

    Example:
        >>> components_for(np.array([3.0, 1.0]), 0.9), components_for(np.ones(4), 0.9)
        (1, 4)
    """
    variance = np.cumsum(np.square(np.asarray(singular, float)))
    return int(np.searchsorted(variance, share * variance[-1] * (1 - 1e-12)) + 1)
