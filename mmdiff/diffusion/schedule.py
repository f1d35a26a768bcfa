"""Noise schedules, and conversions between alpha_bar, sigma and time.

``x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps`` (DDPM) and
``x_t = x_0 + sigma eps`` (EDM) differ by the factor ``sqrt(alpha_bar)``; their
signal-to-noise ratios are equal where ``sigma^2 = (1 - alpha_bar) / alpha_bar``.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from .predictions import PREDICTIONS


def shifted_cosine_betas(num_train_timesteps: int, shift: float) -> list[float]:
    """Compute the betas of the cosine schedule shifted for a larger image.

    ``log SNR(t) = -2 log tan(pi t / 2) + 2 log(shift)`` with
    ``t = linspace(1e-4, 1 - 1e-4, T)`` (Hoogeboom et al. 2023, "simple diffusion",
    eq. 4; there ``shift = 64 / image_size``).

    Args:
        num_train_timesteps: Number of timesteps ``T``.
        shift: Below 1 adds noise, for images whose neighbouring pixels say the same.

    Returns:
        ``T`` betas, as ``DDPMScheduler(trained_betas=...)`` takes them.
    """
    t = torch.linspace(1e-4, 1 - 1e-4, num_train_timesteps, dtype=torch.float64)
    log_snr = -2 * torch.log(torch.tan(math.pi * t / 2)) + 2 * math.log(shift)
    alpha_bar = torch.sigmoid(log_snr)
    previous = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
    return (1 - alpha_bar / previous).tolist()


def build_scheduler(schedule: dict | None = None) -> DDPMScheduler:
    """Build diffusers' scheduler, the one holder of the noise schedule.

    Args:
        schedule: Arguments of ``DDPMScheduler`` (``beta_schedule``,
            ``prediction_type``, ...). ``beta_schedule='shifted_cosine'`` with ``shift``
            is added to diffusers' own names. ``None`` is DDPM's: linear, 1000 steps,
            epsilon prediction.

    Raises:
        ValueError: If no scheduler has a name or an argument.

    Example:
        >>> build_scheduler(dict(beta_schedule='shifted_cosine', shift=0.5)
        ...     ).alphas_cumprod.shape
        torch.Size([1000])
    """
    check_arguments(schedule)
    args = dict(schedule or {})
    if args.get('beta_schedule') == 'shifted_cosine':
        del args['beta_schedule']
        args['trained_betas'] = shifted_cosine_betas(
            args.setdefault('num_train_timesteps', 1000), args.pop('shift', 1.0)
        )
    args.setdefault('clip_sample', False)
    try:
        return DDPMScheduler(**args)
    except (NotImplementedError, TypeError) as error:
        raise ValueError(
            f'Noise schedule {schedule} is not one that can be built ({error}); use '
            "the arguments of diffusers' DDPMScheduler, or "
            "beta_schedule='shifted_cosine' with shift."
        ) from None


def check_arguments(schedule: Any) -> None:
    """Complain about what is no arguments of a schedule by name.

    Raises:
        ValueError: If so.
    """
    if schedule is not None and not isinstance(schedule, Mapping):
        raise ValueError(
            f'schedule={schedule!r} must be a dict of arguments, as '
            "schedule=dict(beta_schedule='linear')."
        )
    shift = (schedule or {}).get('shift', 1.0)
    if not isinstance(shift, int | float) or not shift > 0:
        raise ValueError(f'shift={shift!r} of the schedule must be a number above 0.')


def check_schedule(scheduler: DDPMScheduler) -> None:
    """Complain about a schedule that no prior can have been trained with.

    Raises:
        ValueError: If the kind of prediction is unknown, the table does not fall
            within 0..1, or noise is predicted where nothing but noise is left.
    """
    prediction_type = scheduler.config.prediction_type
    if prediction_type not in PREDICTIONS:
        raise ValueError(
            f'prediction_type={prediction_type!r} is unknown; the noise schedule must '
            f'name one of {PREDICTIONS}.'
        )
    table, betas = scheduler.alphas_cumprod, scheduler.betas
    if not len(table):
        raise ValueError(
            'The noise schedule has no timesteps; give num_train_timesteps (or '
            'trained_betas) that the prior was trained with.'
        )
    if table.is_meta:  # it has no values: only names and shapes are looked at
        return
    # Of betas above 1 the table may underflow to 0 before it shows.
    within = all(((x >= 0) & (x <= 1)).all() for x in (table, betas))
    if not within or (table.diff() > 0).any():
        raise ValueError(
            'The table alpha_bar of the noise schedule does not fall from 1 to 0; '
            'give the betas (between 0 and 1) that the prior was trained with.'
        )
    if prediction_type == 'epsilon' and table[-1] == 0:
        raise ValueError(
            "prediction_type='epsilon' with a zero terminal SNR "
            '(rescale_betas_zero_snr) has no estimate of the image at the last '
            "timestep; give the prior's own prediction, as "
            "schedule=dict(prediction_type='v_prediction'), or its own betas."
        )


def alpha_bar_to_sigma(alpha_bar: Tensor) -> Tensor:
    """Return the sigma of ``x_0 + sigma eps`` with the same signal-to-noise ratio.

    With :func:`sigma_to_alpha_bar` it lets a classifier of images that counts sigmas
    take the predictions of a prior that counts timesteps, and the other way round.
    """
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def sigma_to_alpha_bar(sigma: Tensor) -> Tensor:
    """Return the alpha_bar of a noise level: inverts :func:`alpha_bar_to_sigma`."""
    return 1 / (1 + sigma**2)


def timestep_to_sigma(alphas_cumprod: Tensor, t: Tensor) -> Tensor:
    """Return the sigma at a timestep; log sigma is linear between whole timesteps.

    A grid of timesteps becomes one of sigmas, as likelihoods over sigmas need it.

    Args:
        alphas_cumprod: Table of alpha_bar, (T,).
        t: Timesteps in [0, T - 1], not necessarily whole.
    """
    log_sigmas = alpha_bar_to_sigma(alphas_cumprod.double()).log()
    low = torch.as_tensor(t).floor().long().clamp(0, len(log_sigmas) - 1)
    high = (low + 1).clamp(max=len(log_sigmas) - 1)
    return torch.lerp(log_sigmas[low], log_sigmas[high], (t - low).double()).exp()


def sigma_to_timestep(alphas_cumprod: Tensor, sigma: Tensor) -> Tensor:
    """Return the timestep at a sigma: inverts :func:`timestep_to_sigma`.

    A prior that counts timesteps is asked at EDM's noise levels by it. Sigmas beyond
    the table give its ends.

    Args:
        alphas_cumprod: Table of alpha_bar, (T,).
        sigma: Noise levels above 0.
    """
    log_sigmas = alpha_bar_to_sigma(alphas_cumprod.double()).log()
    log_sigma = torch.as_tensor(sigma).double().log().clamp(*log_sigmas[[0, -1]])
    low = (torch.searchsorted(log_sigmas, log_sigma, right=True) - 1).clamp(
        0, len(log_sigmas) - 2
    )
    start, end = log_sigmas[low], log_sigmas[low + 1]
    return low + (log_sigma - start) / (end - start)


def vp_sigma(t: Tensor, beta_d: float = 19.9, beta_min: float = 0.1) -> Tensor:
    """Return the sigma of the VP process at t in [0, 1] (Karras et al. 2022, table 1).

    It is ``sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1)``: the time in which published
    diffusion classifiers and purifiers of score-SDE networks are set.
    """
    return torch.expm1(0.5 * beta_d * t**2 + beta_min * t).sqrt()


def vp_time(sigma: Tensor, beta_d: float = 19.9, beta_min: float = 0.1) -> Tensor:
    """Return the time of the VP process at a sigma: inverts :func:`vp_sigma`."""
    return ((beta_min**2 + 2 * beta_d * torch.log1p(sigma**2)).sqrt() - beta_min) / (
        beta_d
    )


def karras_sigmas(
    steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> Tensor:
    """Return EDM's falling noise levels, (steps,) (Karras et al. 2022, eq. 5)."""
    if steps == 1:
        return torch.tensor([sigma_max], dtype=torch.float64)
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return (high + ramp * (low - high)) ** rho
