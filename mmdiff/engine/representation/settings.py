"""Settings of an analysis: on how many images, and under which attack."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from mmdiff.attacks.budget import check_count
from mmdiff.evaluation.representation.autoencoder import SparseSettings
from mmdiff.evaluation.representation.results import CKA, KINDS

from ..presets import CLASSIFICATION

MEASURES = (*KINDS, CKA)
LEAST = 20  # images: as many as a jackknife has groups


@dataclass(frozen=True)
class AnalysisSettings:
    """What all representations of an analysis have in common.

    Args:
        images: Test images to measure on; ``None``: 512 of classifiers and 128 of
            detectors, or all that there are.
        fit_images: Training images to fit probes, components and autoencoders on;
            ``None``: 2,048 and 400, or all.
        fit_from: ``'training'``, or ``'test'``: other images of the test set in place
            of training images.
        attack_images: How many of the images are attacked, the first; ``None``: 128 and
            32.
        attack_eps: Budgets of PGD (linf) in pixel units; none: no attack.
        attack_steps: Steps of PGD.
        eot: Passes that its gradient is averaged over; ``None``: 4 where the model
            draws fresh noise, else 1.
        batch_size: Images of one pass; ``None``: 64 and 8.
        stride: Pixels between the locations of a detector's probe.
        latents, active, sparse_steps: Of the autoencoder
            (:class:`~mmdiff.evaluation.representation.autoencoder.SparseSettings`).
        seed: Of the choice of images, of views, starts and autoencoders, and of random
            weights.

    Raises:
        ValueError: For numbers out of range.

    Example:
        >>> AnalysisSettings(attack_eps=(8, 2)).attack_eps
        (2.0, 8.0)
    """

    images: int | None = None
    fit_images: int | None = None
    attack_images: int | None = None
    attack_eps: tuple[float, ...] = (2.0,)
    attack_steps: int = 10
    eot: int | None = None
    batch_size: int | None = None
    stride: int = 8
    latents: int = 256
    active: int = 8
    sparse_steps: int = 1000
    seed: int = 0
    fit_from: str = 'training'

    def __post_init__(self) -> None:
        counts = 'attack_images', 'attack_steps', 'eot', 'batch_size', 'sparse_steps'
        for name in (*counts, 'stride'):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        for name in ('images', 'fit_images'):
            value = getattr(self, name)
            if value is not None and value < LEAST:
                raise ValueError(
                    f'{name}={value} is too few for any of the measures; give {LEAST} '
                    'at least, and for ranks more than a layer has features.'
                )
        if self.fit_from not in ('training', 'test'):
            raise ValueError(
                f"fit_from={self.fit_from!r} must be 'training' or 'test'."
            )
        sizes = sorted({float(eps) for eps in self.attack_eps})
        if not all(0 < eps <= 255 for eps in sizes):
            raise ValueError(
                f'attack_eps={tuple(self.attack_eps)} must be budgets above 0 and up '
                'to 255, in pixel units (8 is 8/255); clean is measured anyway.'
            )
        object.__setattr__(self, 'attack_eps', tuple(sizes))
        self.sparse  # noqa: B018 (it is checked)

    @property
    def sparse(self) -> SparseSettings:
        """Settings of the autoencoder."""
        return SparseSettings(
            self.latents, self.active, self.sparse_steps, seed=self.seed
        )

    def for_task(self, task: str) -> AnalysisSettings:
        """Fill in what depends on the task.

        Args:
            task: ``'classification'`` or ``'detection'``.
        """
        few = task != CLASSIFICATION
        return replace(
            self,
            images=self.images or (128 if few else 512),
            fit_images=self.fit_images or (400 if few else 2048),
            attack_images=self.attack_images or (32 if few else 128),
            batch_size=self.batch_size or (8 if few else 64),
        )

    def identity(self) -> dict[str, Any]:
        """All that results depend on; images to fit on have names of their own."""
        settings = asdict(self)
        del settings['fit_from']
        return settings


def check_measures(names: tuple[str, ...]) -> tuple[str, ...]:
    """Put measures in order, each once.

    Raises:
        ValueError: For an unknown one, or none.
    """
    unknown = [name for name in names if name not in MEASURES]
    if unknown or not names:
        said = (
            f'There is no measure {unknown[0]!r}' if unknown else 'No measure is given'
        )
        raise ValueError(f'{said}; there are: {", ".join(MEASURES)}.')
    return tuple(name for name in MEASURES if name in names)


def check_minutes(minutes: float | None) -> None:
    """Complain about no time.

    Raises:
        ValueError: If so.
    """
    if minutes is not None and not (math.isfinite(minutes) and minutes > 0):
        raise ValueError(
            f'An analysis with minutes={minutes:g} has no time left for any measure; '
            'give more minutes.'
        )
