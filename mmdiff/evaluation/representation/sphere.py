"""Alignment and uniformity of features on the unit sphere (Wang and Isola 2020).

With ``f`` the features divided by their length::

    alignment  = E |f(x) - f(x')|^2         x' another view of the same image; 0 to 4
    uniformity = log E exp(-2 |f(x) - f(y)|^2)      over pairs of different images

Lower is better for both. Uniformity is 0 where all images are in one place; of many
images that are spread evenly over the sphere it falls with ``d`` towards ``-4``, where
every pair is at a right angle.
"""

from __future__ import annotations

import numpy as np

ALPHA, T = 2, 2


def on_sphere(features: np.ndarray) -> np.ndarray:
    """Features divided by their length, (N, d).

    Raises:
        ValueError: If those of an image are all 0, which has no direction.
    """
    features = np.asarray(features, float)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    if not lengths.all():
        count = int((lengths == 0).sum())
        raise ValueError(
            f'All features of {count} images are 0: they have no direction.'
        )
    return features / lengths


def alignment(features: np.ndarray, views: np.ndarray) -> np.ndarray:
    """Squared distance of each image from another view of it, (N,), 0 to 4.

    Args:
        features: Features of the images, (N, d).
        views: Features of other views of the same images, (N, d).

    Example:
        >>> alignment(np.array([[2.0, 0.0]]), np.array([[0.0, 1.0]])).round(6)
        array([2.])
    """
    return (np.abs(on_sphere(features) - on_sphere(views)) ** ALPHA).sum(1)


def uniformity(features: np.ndarray) -> float:
    """Logarithm of the mean Gaussian potential of all pairs of images.

    Args:
        features: (N, d).

    Example:
        >>> round(uniformity(np.array([[1.0, 0.0], [-1.0, 0.0]])), 6)  # -2 * 2**2
        -8.0
    """
    from scipy.spatial.distance import pdist
    from scipy.special import logsumexp

    distances = pdist(on_sphere(features), 'sqeuclidean')
    return float(logsumexp(-T * distances) - np.log(len(distances)))
