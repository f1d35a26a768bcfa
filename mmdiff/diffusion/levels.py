"""Noise levels that a likelihood is summed over, and what each of them weighs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from .base import DiffusionModel
from .schedule import sigma_to_timestep

GRIDS = ('training', 'linear', 'log')
WEIGHTINGS = ('uniform', 'log_normal', 'paper')
# EDM's distribution of training noise (Karras et al. 2022, table 1), for any prior.
P_MEAN, P_STD, SIGMA_DATA = -1.2, 1.2, 0.5


@dataclass(frozen=True)
class NoiseLevels:
    """Times of a prior with the weights of their errors.

    Args:
        times: Timesteps or sigmas; one may stand there several times, for a noise each.
        weights: What the mean squared error of the predicted noise is multiplied by.
    """

    times: tuple[float, ...]
    weights: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.times)


def choose_levels(
    model: DiffusionModel,
    num_levels: int = 50,
    grid: str = 'training',
    weighting: str = 'uniform',
    times: Sequence[float] | None = None,
    sigma_range: tuple[float, float] = (1e-4, 3.0),
    num_noise: int = 1,
) -> NoiseLevels:
    """Choose noise levels and their weights.

    Weights are those of ``|eps_theta(x_t, t, y) - eps|^2``. In terms of
    ``s = sigma_t / alpha_t``, at which any prior sees the noise of EDM's sigma, the
    estimate of the image errs by ``s`` times that of the noise; so the published
    ``w(s) = (s^2 + s_d^2) / (s s_d)^2 p(s) ds`` of the estimate of the image (Chen et
    al. 2024, "Robust Classification via a Single Diffusion Model") is
    ``(s^2 + s_d^2) / s_d^2 p(s) ds`` here. ``ds`` reaches to the next level, as in
    Euler's rule from the left.

    Args:
        model: The prior.
        num_levels: Number of levels. A grid of sigmas gives a prior that counts
            timesteps fewer where several sigmas fall on one timestep.
        grid: ``'training'``: middles of equal parts of the training distribution.
            ``'linear'``: equal steps of s from the left, the paper's. ``'log'``: equal
            steps of ``log s``.
        weighting: ``'uniform'``: one over the number of levels. ``'log_normal'``: p(s)
            is EDM's training distribution. ``'paper'``: as the code of the paper has
            it, whose exponent is multiplied by ``P_std^2`` where it should be divided.
        times: The levels themselves, in place of a grid.
        sigma_range: Ends of the grids ``'linear'`` and ``'log'``.
        num_noise: Noises per level.

    Raises:
        ValueError: If there is no such grid or weighting, a time is out of range, or no
            level or noise is left.

    Example:
        >>> model = DiffusionModel.from_pretrained('mmdiff::toy_voc')
        >>> choose_levels(model, 4).times
        (125, 375, 625, 875)
    """
    _check(num_levels, num_noise, grid, weighting, sigma_range)
    end = None
    if times is not None:
        chosen = _explicit(model, times)
    elif grid == 'training':
        chosen = _training(model, num_levels)
    else:
        edges = _edges(num_levels, grid, sigma_range)
        chosen, end = _on_sigmas(model, edges[:-1]), edges[-1]
    weights = level_weights(model, chosen, weighting, end)
    repeated = [(t, w / num_noise) for t, w in zip(chosen, weights)] * num_noise
    return NoiseLevels(*map(tuple, zip(*repeated)))


def level_weights(
    model: DiffusionModel,
    times: Sequence[float],
    weighting: str,
    end: float | None = None,
) -> list[float]:
    """Weigh the errors of the predicted noise; see :func:`choose_levels`.

    Args:
        model: The prior.
        times: Its times, rising.
        weighting: Name of the weights.
        end: Equivalent sigma at which the last level's part ends; ``None`` makes the
            part as long as the one before it.

    Raises:
        ValueError: If no image is left at a time (alpha_t is 0).
    """
    if weighting == 'uniform':
        return [1 / len(times)] * len(times)
    sigmas = [equivalent_sigma(model, t) for t in times]
    if not math.isfinite(sigmas[-1]):
        raise ValueError(
            f'{model.time_unit}={times[-1]} leaves nothing of the image, so '
            f'weighting={weighting!r} has no value there; leave it out, or take '
            "weighting='uniform'."
        )
    if end is None:
        end = 2 * sigmas[-1] - sigmas[-2] if len(sigmas) > 1 else sigmas[-1] + 1
    widths = [b - a for a, b in pairwise([*sigmas, end])]
    data = getattr(model.unet, 'sigma_data', SIGMA_DATA)
    return [
        (s**2 + data**2) / data**2 * _density(s, weighting) * width
        for s, width in zip(sigmas, widths)
    ]


def equivalent_sigma(model: DiffusionModel, time: float) -> float:
    """Return ``sigma_t / alpha_t``: the noise level of EDM that a time stands for."""
    alpha, sigma = model.signal_and_noise(time, torch.zeros(1, 1, 1, 1))
    return math.inf if not alpha else (sigma.double() / alpha.double()).item()


def _density(sigma: float, weighting: str) -> float:
    """Log-normal density of a sigma, or what the paper's code has in its place."""
    exponent = (math.log(sigma) - P_MEAN) ** 2 / 2
    exponent = exponent * P_STD**2 if weighting == 'paper' else exponent / P_STD**2
    return math.exp(-exponent) / (sigma * P_STD * math.sqrt(2 * math.pi))


def _check(
    num_levels: int,
    num_noise: int,
    grid: str,
    weighting: str,
    sigma_range: tuple[float, float],
) -> None:
    for name, value in (('num_levels', num_levels), ('num_noise', num_noise)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(
                f'{name}={value!r} leaves no noise to predict; give a whole number of '
                'at least 1.'
            )
    if grid not in GRIDS:
        raise ValueError(f'grid={grid!r} is unknown; choose one of {GRIDS}.')
    if weighting not in WEIGHTINGS:
        raise ValueError(
            f'weighting={weighting!r} is unknown; choose one of {WEIGHTINGS}.'
        )
    low, high = sigma_range
    if not 0 < low < high < math.inf:
        raise ValueError(
            f'sigma_range={(low, high)} must rise from above 0 to a finite sigma.'
        )


def _explicit(model: DiffusionModel, times: Sequence[float]) -> list[float]:
    """Check times that were given; they come back in rising order."""
    if not len(times):
        raise ValueError(
            'times=() leaves no noise to predict; give one level at least.'
        )
    for time in times:
        model.check_time(time)
    if len(set(times)) < len(times):
        raise ValueError(
            'times has a level twice, which would count it twice; use num_noise for '
            'several noises per level.'
        )
    return sorted(times)


def _training(model: DiffusionModel, num_levels: int) -> list[float]:
    times = model.level_times(num_levels)
    if len(set(times)) < num_levels:
        raise ValueError(
            f'num_levels={num_levels} is more than the prior has timesteps; give at '
            f'most {int(model.time_range[1]) + 1}, and several noises by num_noise.'
        )
    return times


def _edges(count: int, grid: str, sigma_range: tuple[float, float]) -> list[float]:
    """Divide a range of sigmas in ``count`` parts."""
    low, high = (
        sigma_range if grid == 'linear' else (math.log(side) for side in sigma_range)
    )
    edges = torch.linspace(low, high, count + 1, dtype=torch.float64)
    return (edges if grid == 'linear' else edges.exp()).tolist()


def _on_sigmas(model: DiffusionModel, sigmas: list[float]) -> list[float]:
    """Return the times of sigmas; the timesteps before them, each of them once."""
    if model.time_unit == 'sigma':
        for sigma in sigmas:
            model.check_time(sigma)
        return sigmas
    table: torch.Tensor = model.alphas_cumprod.cpu()
    steps = sigma_to_timestep(table, torch.tensor(sigmas)).floor().long()
    return sorted(set(steps.tolist()))
