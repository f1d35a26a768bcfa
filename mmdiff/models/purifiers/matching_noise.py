"""Whether a denoiser expects the noise that a smoothed model adds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmdiff.diffusion import DiffusionModel
from mmdiff.diffusion.levels import equivalent_sigma
from mmdiff.diffusion.schedule import sigma_to_timestep

from .base import Purifier
from .one_step import OneStepDenoiser

TOLERANCE = 0.01  # of a prior that counts sigmas


class NoiseRemover(nn.Module):
    """A one-step denoiser of noise that is in the images already.

    It stands where a purifier does, and adds no noise of its own.

    Args:
        denoiser: The denoiser.
        sigma: Standard deviation of the noise, of images in [0, 1].

    Raises:
        ValueError: If it is another purifier, has settings of a noise of its own, is of
            latents, or expects another noise.
    """

    def __init__(self, denoiser: Purifier, sigma: float) -> None:
        super().__init__()
        check_denoiser(denoiser)
        check_level(denoiser, sigma)
        self.denoiser = denoiser

    def forward(self, x: Tensor, sample: int = 0) -> Tensor:
        """Remove the noise of images, (N, 3, H, W), RGB, about in [-1, 1]."""
        return self.denoiser.remove_noise(x)


def check_denoiser(denoiser: Purifier) -> None:
    """Complain about what cannot remove noise that others added to pixels.

    Raises:
        ValueError: If so.
    """
    if not isinstance(denoiser, OneStepDenoiser):
        raise ValueError(
            f'{type(denoiser).__name__} adds noise of its own, and smoothing has added '
            "its own before it; give dict(type='mmdiff.OneStepDenoiser', ...)."
        )
    if denoiser.prior.encoder_stride > 1:
        raise ValueError(
            'This prior removes noise of latents, and the noise of smoothing is of '
            'pixels; give a prior of pixels (DDPM, EDM).'
        )
    if denoiser.noise != 'fixed' or denoiser.noise_seed != 0:
        raise ValueError(
            'The denoiser removes the noise of the smoothing and draws none: give '
            'noise_seed to the SmoothedDetector, and leave noise and noise_seed of '
            'the purifier out.'
        )


def check_level(denoiser: OneStepDenoiser, sigma: float) -> None:
    """Complain about a denoiser that expects another noise.

    Noise of sigma in [0, 1] is noise of 2 sigma in [-1, 1], and a prior expects that
    of ``sigma_t / alpha_t``. Timesteps are whole: that of no more noise and that of no
    less both match.

    Args:
        denoiser: The denoiser.
        sigma: Standard deviation of the noise, of images in [0, 1].

    Raises:
        ValueError: If so.
    """
    prior, time = denoiser.prior, denoiser.time
    low, high = neighbours(prior, time)
    if low <= 2 * sigma <= high:
        return
    level = denoiser.noise_level
    told = (
        f'sigma={sigma:g} in [0, 1] is noise of {2 * sigma:g} in [-1, 1], and the '
        f'denoiser at {prior.time_unit}={time:g} expects {level:.4g}: give '
    )
    if prior.time_unit == 'sigma':
        raise ValueError(f'{told}the purifier sigma={2 * sigma:g}.')
    other = f'the SmoothedDetector sigma={level / 2:.4g}.'
    if 2 * sigma > equivalent_sigma(prior, int(prior.time_range[1])):
        raise ValueError(f'{told}{other}')
    table = prior.alphas_cumprod.cpu()
    matching = int(sigma_to_timestep(table, torch.tensor(2 * sigma)).round())
    raise ValueError(f'{told}the purifier timestep={matching}, or {other}')


def neighbours(prior: DiffusionModel, time: float) -> tuple[float, float]:
    """Levels of noise, in [-1, 1], between which a time is the nearest below or above.

    Args:
        prior: The prior.
        time: Its timestep or sigma.
    """
    if prior.time_unit == 'sigma':
        return time * (1 - TOLERANCE), time * (1 + TOLERANCE)
    first, last = (int(end) for end in prior.time_range)
    low = equivalent_sigma(prior, int(time) - 1) if time > first else 0.0
    return low, equivalent_sigma(prior, min(int(time) + 1, last))
