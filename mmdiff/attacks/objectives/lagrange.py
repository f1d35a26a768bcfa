"""Another objective, for images that a diffusion prior still finds likely."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from mmdiff.registry import OBJECTIVES as REGISTRY

from .base import check_objective


@REGISTRY.register_module()
@dataclass(frozen=True)
class Lagrange:
    """``inner - multiplier * error``, the denoising error of the image: ``lagrange``.

    After the adaptive attack of that name on likelihood maximisation (Chen et al. 2024,
    "Robust Classification via a Single Diffusion Model"), which the paper names and
    does not define: a shield that climbs to likely images leaves an image alone that is
    likely already.
    The error is the mean over noise levels of ``|eps_theta(x_t, t) - eps|^2``, the mean
    over the values of the image that the attack gives (before the shield), by noise
    that ``noise_seed`` fixes: it is one function in all steps and restarts, and it is
    not averaged (``eot``). The prior is that of the shield; without one, that of a
    ``DiffusionClassifier`` or of a frozen ``DiffusionUNet`` backbone.

    Args:
        inner: Name of the objective of the model: by default the cross-entropy of a
            classifier, all losses of a detector.
        multiplier: Weight of the error, above 0. Which one leaves least is not known
            beforehand: try several, 0.1 to 100, beside the inner objective alone.
        num_levels: Noise levels of the error, in equal parts of what the prior was
            trained on; each costs one pass of the U-Net.
        times: The levels themselves, timesteps or sigmas as the prior counts, in place
            of ``num_levels``: those of the shield, say.
        noise_seed: Seed of the noise of the error. With that of a shield of fixed noise
            the first levels have the very noise of its first steps.
        through_shield: Whether the model is asked behind its shield, by the gradient
            that the shield gives (``'exact'``, if it is not told otherwise), or bare.
            The error is the same.

    Raises:
        ValueError: For settings out of range, or an unknown inner objective.

    Example:
        >>> from mmdiff.attacks import PGD
        >>> attack = PGD(eps=8, objective=dict(type='Lagrange', multiplier=100))
        >>> attack.threat_model()['objective']
        {'type': 'Lagrange', 'multiplier': 100}
    """

    inner: str = 'total'
    multiplier: float = 1.0
    num_levels: int = 10
    times: Sequence[float] | None = None
    noise_seed: int = 0
    through_shield: bool = True

    def __post_init__(self) -> None:
        check_inner(self.inner)
        number = _is(self.multiplier, Real)
        if not number or not 0 < self.multiplier < math.inf:
            raise ValueError(
                f'multiplier={self.multiplier!r} must be a number above 0; without the '
                'denoising error the objective is the inner one: name that.'
            )
        if not _is(self.num_levels, Integral) or self.num_levels < 1:
            raise ValueError(
                f'num_levels={self.num_levels!r} must be a whole number of at least 1.'
            )
        if not _is(self.noise_seed, Integral) or self.noise_seed < 0:
            raise ValueError(
                f'noise_seed={self.noise_seed!r} must be a whole number of at least 0.'
            )
        if not isinstance(self.through_shield, bool):
            raise ValueError(
                f'through_shield={self.through_shield!r} must be True or False.'
            )
        if self.times is not None and not isinstance(self.times, list | tuple):
            raise ValueError(
                f'times={self.times!r} must be a list of timesteps or sigmas, or None.'
            )


def check_inner(inner: Any) -> None:
    """Complain about what is no objective of a model.

    Raises:
        ValueError: If it is another thing than a name, unknown, or ``lagrange``.
    """
    if not isinstance(inner, str) or inner == 'lagrange':
        raise ValueError(
            f'inner={inner!r} must be the name of an objective of the model, as '
            "'total', 'ce' or 'detections'."
        )
    check_objective(inner)


def _is(value: Any, kind: type) -> bool:
    """Whether a value is a number of a kind; True and False are none."""
    return isinstance(value, kind) and not isinstance(value, bool)
