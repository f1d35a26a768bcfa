"""Intervals: what the main metric would be on other images of the same kind.

Images are drawn with replacement, as many as there are (the bootstrap of Efron 1979),
and the metric is taken of each draw. The mAP of a few images is higher than that of
many, and that of draws, which hold fewer different images, higher still: so percentiles
of the draws would lie too high. An interval goes as far *against* the deviation of the
draws instead (reverse percentiles; Davison and Hinkley 1997, section 5.2), on a scale
on which a fraction varies alike near 0, 1 and between (arcsine of the root).

All rows and models are measured on the same draws, so that of a share kept, or of a
difference, only what is not common to both is left. What makes the mAP of few images
high is common to both: there percentiles are taken as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from .image_tables import ImageTable

Interval = tuple[float, float]


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

    def interval(self, values: np.ndarray, estimate: float) -> Interval | None:
        """Interval of a metric between 0 and 1.

        Args:
            values: The metric of each draw, (B,); NaN where there was nothing.
            estimate: The metric of all images, each once.

        Returns:
            Its ends; ``None`` if nothing was measured.
        """
        ends = self.paired_interval(values)
        if ends is None or not np.isfinite(estimate):
            return None
        low, high, middle = np.arcsin(np.sqrt(np.clip([*ends, estimate], 0, 1)))
        angles = np.clip([2 * middle - high, 2 * middle - low], 0, np.pi / 2)
        low, high = np.sin(angles) ** 2
        return float(low), float(high)

    def interval_of_alike(self, value: float, count: int) -> Interval:
        """Interval of a share of images where all are alike, and so all draws are.

        With so many images, all are alike with a probability above that of a tail for
        any share inside it (Clopper and Pearson 1934, at their ends).

        Args:
            value: 0 or 1, what each image is worth.
            count: Number of images.

        Example:
            >>> low, high = Bootstrap().interval_of_alike(0, 100)
            >>> low, round(high, 3)
            (0.0, 0.036)
        """
        room = 1 - ((1 - self.level) / 2) ** (1 / count)
        return (1 - room, 1.0) if value else (0.0, room)

    def paired_interval(self, values: np.ndarray) -> Interval | None:
        """Interval of what compares two metrics on each draw, (B,)."""
        values = values[np.isfinite(values)]
        if len(values) == 0:
            return None
        tail = 50 * (1 - self.level)
        low, high = np.percentile(values, [tail, 100 - tail])
        return float(low), float(high)

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
