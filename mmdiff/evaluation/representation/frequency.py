"""Where in frequency the gradient of a loss to an image lies.

The power of a gradient ``g``, ``|F g|^2`` with ``F`` the two-dimensional Fourier
transform of each channel, is summed over channels and added up in rings of the radius
``sqrt(fx^2 + fy^2)`` in cycles per pixel: 0 is the mean, 0.5 the highest along an axis,
``sqrt(0.5)`` the highest there is. Each image counts by the shares of its own energy,
so that a large gradient counts no more than a small one. The transform takes images for
periodic, so what differs between opposite borders counts among the frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

HIGHEST = 0.5**0.5
CUTOFFS = (0.125, 0.25)  # cycles per pixel: waves of 8 and of 4 pixels
EDGES = np.linspace(0, HIGHEST, 17)


def _power(gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Radius and power of each frequency, (H, W) each.

    Raises:
        ValueError: For a gradient that is all 0 or not finite.
    """
    gradient = np.asarray(gradient, float)
    power = (np.abs(np.fft.fft2(gradient)) ** 2).sum(0)
    if not 0 < power.sum() < np.inf:
        raise ValueError('A gradient that is all 0 or not finite has no frequency.')
    return _radius(power.shape), power / power.sum()


def radial_shares(
    gradient: np.ndarray, edges: Sequence[float] | np.ndarray = EDGES
) -> np.ndarray:
    """Share of a gradient's energy in each ring of frequencies, (B,); they sum to 1.

    Args:
        gradient: (C, H, W).
        edges: Radii of the rings, (B + 1,), ascending, from 0 to :data:`HIGHEST`.

    Raises:
        ValueError: For a gradient that is all 0 or not finite.
    """
    radius, power = _power(gradient)
    return np.histogram(np.minimum(radius, HIGHEST), edges, weights=power)[0]


def share_above(gradient: np.ndarray, cutoff: float) -> float:
    """Share of a gradient's energy above a radius in cycles per pixel, 0 to 1.

    Example:
        >>> wave = np.cos(np.pi * np.arange(8))  # the highest along an axis: 0.5
        >>> share_above(np.tile(wave, (1, 8, 1)), 0.25)
        1.0
    """
    radius, power = _power(gradient)
    return float(power[radius > cutoff].sum())


def white_shares(shape: Sequence[int]) -> np.ndarray:
    """Share in each ring of :data:`EDGES` of white noise of a size (H, W), (B,)."""
    counts = np.histogram(np.minimum(_radius(shape), HIGHEST), EDGES)[0]
    return counts / counts.sum()


def white_share_above(shape: Sequence[int], cutoff: float) -> float:
    """Share above a radius of white noise of a size (H, W): that of the frequencies.

    Example:
        >>> round(white_share_above((32, 32), 0.25), 2)
        0.81
    """
    return float((_radius(shape) > cutoff).mean())


def _radius(shape: Sequence[int]) -> np.ndarray:
    """Radius of each frequency of an image of a size (H, W), (H, W)."""
    rows, columns = (np.fft.fftfreq(size) for size in shape)
    return np.hypot(rows[:, None], columns)
