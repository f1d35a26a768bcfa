"""How detections are smoothed, and for which radii they are certified."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real

from .order_statistics import Ranks, copies_needed, ranks
from .slots import SORTINGS


@dataclass(frozen=True)
class SmoothingSettings:
    """Settings of :class:`mmdiff.models.SmoothedDetector`, checked.

    Args:
        sigma, num_copies, radii, alpha, thresholds, sorting, location_bins, noise_seed,
            batch_size: See there.

    Attributes:
        ranks: Order statistics of each radius.

    Raises:
        ValueError: If one is out of range, or there are too few copies for a radius.

    Example:
        >>> SmoothingSettings(0.25, 200, radii=(0.1, 0.2)).ranks
        (Ranks(lower=45, upper=156), Ranks(lower=23, upper=178))
    """

    sigma: float
    num_copies: int
    radii: Sequence[float]
    alpha: float = 0.001
    thresholds: Sequence[float] = (0.1, 0.2, 0.4, 0.6, 0.8)
    sorting: str = 'location'
    location_bins: int = 3
    noise_seed: int = 0
    batch_size: int = 16
    ranks: tuple[Ranks, ...] = field(init=False)

    def __post_init__(self) -> None:
        for name in ('radii', 'thresholds'):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check_numbers()
        self._check_lists()
        if self.sorting not in SORTINGS:
            raise ValueError(
                f'sorting={self.sorting!r} is unknown; choose one of {SORTINGS}.'
            )
        self._ranks(max(self.radii))  # it names the copies that all radii need
        chosen = [self._ranks(radius) for radius in self.radii]
        object.__setattr__(self, 'ranks', tuple(chosen))

    def _check_numbers(self) -> None:
        if not _is_number(self.sigma) or not 0 < self.sigma < math.inf:
            raise ValueError(
                f'sigma={self.sigma!r} must be a number above 0: the standard '
                'deviation of the noise, of images in [0, 1].'
            )
        if not _is_number(self.alpha) or not 0 < self.alpha < 1:
            raise ValueError(f'alpha={self.alpha!r} must be above 0 and below 1.')
        for name in ('num_copies', 'location_bins', 'batch_size'):
            value = getattr(self, name)
            if not _is_whole(value) or value < 1:
                raise ValueError(
                    f'{name}={value!r} must be a whole number of at least 1.'
                )
        if not _is_whole(self.noise_seed):
            raise ValueError(f'noise_seed={self.noise_seed!r} must be a whole number.')

    def _check_lists(self) -> None:
        limits = {'radii': math.inf, 'thresholds': 1}
        for name, limit in limits.items():
            values = getattr(self, name)
            good = all(_is_number(value) and 0 < value < limit for value in values)
            if not values or not good or len(set(values)) < len(values):
                raise ValueError(
                    f'{name}={list(values)} must be different numbers above 0 and '
                    f'below {limit}, one at least.'
                )

    def _ranks(self, radius: float) -> Ranks:
        chosen = ranks(self.num_copies, radius, self.sigma, self.alpha)
        if chosen is not None:
            return chosen
        needed = copies_needed(radius, self.sigma, self.alpha)
        advice = 'no number of copies has one; take a smaller radius or a larger sigma.'
        if math.isfinite(needed):
            advice = f'give num_copies={needed} at least, or a smaller radius.'
        raise ValueError(
            f'num_copies={self.num_copies} copies have no order statistic that bounds '
            f'the median within radius {radius:g} at sigma={self.sigma:g} and '
            f'alpha={self.alpha:g}: {advice}'
        )


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
