"""Centred kernel alignment (CKA) of two representations of the same images.

With linear kernels ``K = X X^T`` and ``L = Y Y^T`` (Kornblith et al. 2019)::

    CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))

1 for representations that are alike up to rotation and scale. The usual estimate of
HSIC is far above 0 for unrelated features of as many dimensions as images; the unbiased
one of Song et al. (2012), as used by Nguyen et al. (2021), is not::

    HSIC_1 = (tr(K' L') + 1'K'1 1'L'1 / ((n-1)(n-2)) - 2/(n-2) 1'K'L'1) / (n (n-3))

where ``K'`` is ``K`` with a diagonal of 0. It may be slightly below 0. All images are
one batch: one vector per image is little enough for that, so no mean over minibatches
is taken.
"""

from __future__ import annotations

import numpy as np

LEAST = 4  # images, below which nothing is unbiased


def gram(features: np.ndarray) -> np.ndarray:
    """Inner products of the features less their mean, (N, N)."""
    values = np.asarray(features, float)
    values = values - values.mean(0)
    return values @ values.T


def hsic(first: np.ndarray, second: np.ndarray, debiased: bool = True) -> float:
    """Hilbert-Schmidt independence criterion of two kernels.

    Args:
        first, second: Kernels, (N, N) each.
        debiased: Take the unbiased estimate.

    Raises:
        ValueError: For fewer images than four.
    """
    count = len(first)
    if count < LEAST:
        raise ValueError(f'CKA needs {LEAST} images at least, and there are {count}.')
    if not debiased:
        centred = first - first.mean(0) - first.mean(1)[:, None] + first.mean()
        return float((centred * second).sum() / (count - 1) ** 2)
    sums, total = [], 0.0
    for kernel in (first, second):
        sums.append(kernel.sum(1) - np.diag(kernel))
    total = (first * second).sum() - (np.diag(first) * np.diag(second)).sum()
    total += sums[0].sum() * sums[1].sum() / ((count - 1) * (count - 2))
    total -= 2 / (count - 2) * (sums[0] @ sums[1])
    return float(total / (count * (count - 3)))


def cka_of_grams(first: np.ndarray, second: np.ndarray, debiased: bool = True) -> float:
    """CKA of two kernels, (N, N) each; see :func:`cka`."""
    own = hsic(first, first, debiased), hsic(second, second, debiased)
    if min(own) <= 0:
        raise ValueError(
            'The features of one side vary too little over these images for a CKA; '
            'take more images.'
        )
    return hsic(first, second, debiased) / (own[0] * own[1]) ** 0.5


def cka(first: np.ndarray, second: np.ndarray, debiased: bool = True) -> float:
    """Linear CKA of two representations of the same images.

    Args:
        first, second: Features, (N, d) and (N, e).
        debiased: Take the unbiased estimate of HSIC.

    Raises:
        ValueError: For fewer images than four, another number of images on each side,
            or features that do not vary.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(20, 3))
        >>> round(cka(x, 2 * x[:, ::-1] + 5), 6)
        1.0
    """
    if len(first) != len(second):
        raise ValueError(
            f'CKA is of the same images, and there are {len(first)} and {len(second)}.'
        )
    return cka_of_grams(gram(first), gram(second), debiased)
