"""Classification dimension: how many principal components tell the classes.

Principal components are those of the features that probes are fitted on. Of the first
``k`` of them, for each ``k`` of a list, a linear probe is fitted and scored on other
images. The last of the list is the linear probe on all features, which are all
components. The dimension is the smallest ``k`` of the list whose score reaches a share
of that one's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmdiff.evaluation.uncertainty import Bootstrap

from .estimates import BOOTSTRAP, Estimate

SHARES = (0.9, 0.99)
STEP = 1.25  # between sizes, from where all of them would be too many


def check_sklearn() -> None:
    """Complain about a missing package, before anything is computed.

    Raises:
        ValueError: If scikit-learn is not installed.
    """
    try:
        import sklearn.decomposition  # noqa: F401
    except ImportError:
        raise ValueError(
            'Principal components (measures dimension and sparse) need scikit-learn, '
            "which is not installed; pip install 'mmdiff[analysis]', or leave these "
            'out of --measures.'
        ) from None


@dataclass(frozen=True)
class PrincipalAxes:
    """Principal components of features, the one of highest variance first.

    Args:
        mean: Mean of the features, (d,).
        axes: Unit vectors, (r, d), as many as the features have directions.
    """

    mean: np.ndarray
    axes: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> PrincipalAxes:
        """Find those of features, (N, d), by scikit-learn.

        Directions without variance, but for rounding, are left out.

        Raises:
            ValueError: If scikit-learn is missing, or all features are the same.
        """
        check_sklearn()
        from sklearn.decomposition import PCA

        pca = PCA(svd_solver='full').fit(np.asarray(features, float))
        deviation = np.sqrt(pca.explained_variance_)
        size = np.abs(features).max()
        kept = deviation > 1e-7 * max(deviation[0], 1e-3 * size, 1e-30)
        if not kept.any():
            raise ValueError(
                'The features are the same for every image, so they have no directions.'
            )
        return cls(pca.mean_, pca.components_[kept])

    def unexplained(self, features: np.ndarray, count: int) -> np.ndarray:
        """Squared error of each image by the first components, (N,)."""
        centred = np.asarray(features, float) - self.mean
        codes = centred @ self.axes[:count].T
        return ((centred - codes @ self.axes[:count]) ** 2).sum(1)


def sizes_up_to(rank: int) -> list[int]:
    """Numbers of components that probes are fitted on; the last is all of them.

    Example:
        >>> sizes_up_to(20)
        [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 19, 20]
    """
    sizes, size = [], 1.0
    while round(size) < rank:
        sizes.append(round(size))
        size = max(size + 1, size * STEP)
    return [*sizes, rank]


def smallest_size(means: np.ndarray, sizes: Sequence[int], share: float) -> np.ndarray:
    """The smallest size whose score reaches a share of the last one's, (...,).

    Args:
        means: Scores by size, (..., K).
        sizes: (K,), ascending.
        share: 0 to 1.
    """
    reached = means >= share * means[..., -1:] - 1e-12
    return np.asarray(sizes)[reached.argmax(-1)]


def classification_dimension(
    scores: np.ndarray, sizes: Sequence[int], share: float, bootstrap: Bootstrap
) -> Estimate:
    """Classification dimension, with percentiles over draws of images.

    Args:
        scores: Score of each image by the probe on each number of components, (K, N).
        sizes: Numbers of components, (K,), ascending; the last is all of them.
        share: Share of the last probe's score to reach.
        bootstrap: How images are drawn; probes stay as they are.

    Raises:
        ValueError: If the probe on all features is right on no image.
    """
    if not scores[-1].any():
        raise ValueError(
            'The probe on all features is right on no image, so there is no share of '
            'its score to reach.'
        )
    value = smallest_size(scores.mean(1), sizes, share)
    weights = bootstrap.weights(scores.shape[1])
    drawn = weights @ scores.T / scores.shape[1]
    smallest = smallest_size(drawn[drawn[:, -1] > 0], sizes, share)
    ends = bootstrap.paired_interval(smallest.astype(float))
    return Estimate(float(value), ends, BOOTSTRAP)
