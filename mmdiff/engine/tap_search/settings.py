"""Settings of a search: how much is measured, and under which attack."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from mmdiff.attacks.budget import check_count


@dataclass(frozen=True)
class SearchSettings:
    """What every cell of a search has in common.

    Args:
        indices: Images of the training set in all, drawn at random; ``None``: 1,280 for
            classifiers and 400 for detectors, or all that there are.
        held_out: How many of them are measured on, not fitted; ``None``: a fifth, 256
            at most.
        eps: Budgets of PGD (linf) in pixel units, 8 is 8/255, each above 0.
        steps: Steps of PGD.
        eot: Passes that its gradient is averaged over; ``None``: 4 where the backbone
            draws fresh noise, else 1.
        batch_size: Images of one pass; ``None``: 64 for classifiers, 8 for detectors.
        stride: Pixels between the locations of a detector's probe.
        seed: Of the choice of images, of PGD's starts, and of random weights.
        max_gb: Limit of the features on disk, in units of 1e9 bytes.

    Raises:
        ValueError: For numbers out of range.

    Example:
        >>> SearchSettings(eps=(8, 2)).eps
        (2.0, 8.0)
    """

    indices: int | None = None
    held_out: int | None = None
    eps: tuple[float, ...] = (2.0, 4.0)
    steps: int = 10
    eot: int | None = None
    batch_size: int | None = None
    stride: int = 8
    seed: int = 0
    max_gb: float = 20.0

    def __post_init__(self) -> None:
        for name in ('indices', 'held_out', 'steps', 'eot', 'batch_size', 'stride'):
            value = getattr(self, name)
            if value is not None:
                check_count(name, value)
        sizes = sorted({float(eps) for eps in self.eps})
        if not sizes or not all(0 < eps <= 255 for eps in sizes):
            raise ValueError(
                f'eps={tuple(self.eps)} must be budgets above 0 and up to 255, in '
                'pixel units (8 is 8/255); clean is measured anyway.'
            )
        if not (math.isfinite(self.max_gb) and self.max_gb > 0):
            raise ValueError(f'max_gb={self.max_gb} leaves no room for features.')
        object.__setattr__(self, 'eps', tuple(sizes))

    def for_task(self, task: str, fresh_noise: bool) -> SearchSettings:
        """Fill in what depends on the model.

        Args:
            task: ``'classification'`` or ``'detection'``.
            fresh_noise: Whether the backbone draws its noise anew in every pass.
        """
        classifies = task == 'classification'
        return replace(
            self,
            indices=self.indices or (1280 if classifies else 400),
            batch_size=self.batch_size or (64 if classifies else 8),
            eot=self.eot or (4 if fresh_noise else 1),
        )

    def identity(self) -> dict[str, Any]:
        """All that results depend on: not the room on disk."""
        settings = asdict(self)
        del settings['max_gb']
        return settings
