"""Intervals: what the main metric would be on other images of the same kind.

Images are drawn with replacement, as many as there are (the bootstrap of Efron 1979),
and the metric is taken of each draw. How far draws lie from the images says how far the
images lie from all others of their kind: an interval goes as far *against* the
deviation of the draws (reverse percentiles; Davison and Hinkley 1997, section 5.2). The
mAP of a few images is higher than that of many, and that of draws, which hold fewer
different images, higher still; so percentiles themselves would lie too high. All rows
and models are measured on the same draws, so that of a share kept, or of a difference,
only what is not common to both is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from .image_tables import ImageTable

Interval = tuple[float, float]


@dataclass(frozen=True)
class Scale:
    """A scale on which draws spread alike wherever the value lies.

    Args:
        to: Takes values to it.
        back: Takes points of it back, to values that there can be.
    """

    to: Callable[[np.ndarray], np.ndarray]
    back: Callable[[np.ndarray], np.ndarray]


# A fraction varies less near 0 and 1, a share of something else near 0.
FRACTION = Scale(
    lambda v: np.arcsin(np.sqrt(np.clip(v, 0, 1))),
    lambda x: np.sin(np.clip(x, 0, np.pi / 2)) ** 2,
)
SHARE = Scale(np.sqrt, lambda x: np.maximum(x, 0) ** 2)
DIFFERENCE = Scale(np.asarray, np.asarray)


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made.

    Args:
        resamples: Number of draws.
        level: Share of the draws inside an interval.
        seed: Seed of the draws.

    Example:
        >>> from mmdiff.evaluation.image_tables import MeanTable
        >>> right = MeanTable(np.repeat([0.0, 1.0], 50))
        >>> low, high = Bootstrap().interval(Bootstrap().values(right, 100), 0.5)
        >>> 0.38 < low < 0.42 and 0.58 < high < 0.62
        True
    """

    resamples: int = 1000
    level: float = 0.95
    seed: int = 0

    def weights(self, num_images: int) -> np.ndarray:
        """How often each draw has each image, (resamples, N)."""
        return _draws(self.resamples, self.seed, num_images)

    def values(self, table: ImageTable, num_images: int) -> np.ndarray:
        """Metric of each draw, (resamples,)."""
        return table.resampled(self.weights(num_images))

    def interval(
        self, values: np.ndarray, estimate: float, scale: Scale = FRACTION
    ) -> Interval | None:
        """Interval around what was measured on the images.

        Args:
            values: What was measured on each draw, (B,); NaN where nothing was.
            estimate: The same on all images, each once.
            scale: Scale of the values.

        Returns:
            Its ends; ``None`` if nothing was measured.
        """
        values = values[np.isfinite(values)]
        if len(values) == 0 or not np.isfinite(estimate):
            return None
        tail = 50 * (1 - self.level)
        low, high = np.percentile(scale.to(values), [tail, 100 - tail])
        middle = scale.to(np.array(estimate))
        ends = scale.back(np.array([2 * middle - high, 2 * middle - low]))
        return float(ends[0]), float(ends[1])

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Bootstrap:
        """Read what ``asdict`` and JSON made of it."""
        return cls(int(raw['resamples']), float(raw['level']), int(raw['seed']))


@lru_cache(maxsize=2)
def _draws(resamples: int, seed: int, num_images: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    even = np.full(num_images, 1 / num_images)
    draws = generator.multinomial(num_images, even, resamples).astype(float)
    draws.flags.writeable = False
    return draws


def share_kept(values: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Share of the clean metric on each draw; NaN where there was nothing."""
    return np.divide(values, clean, out=np.full(len(clean), np.nan), where=clean > 0)
