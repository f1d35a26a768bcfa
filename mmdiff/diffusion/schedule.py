"""Noise schedules: the table of alpha_bar over the training timesteps."""

import math

import torch
from diffusers import DDPMScheduler


def shifted_cosine_betas(num_train_timesteps: int, shift: float) -> list[float]:
    """Betas of the cosine schedule shifted for a larger image.

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
        ValueError: For a name or an argument that no scheduler has.

    Example:
        >>> build_scheduler(dict(beta_schedule='shifted_cosine', shift=0.5)
        ...     ).alphas_cumprod.shape
        torch.Size([1000])
    """
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
