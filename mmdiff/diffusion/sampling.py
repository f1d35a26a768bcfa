"""Samplers: DDIM for priors that count timesteps, Heun for those that count sigmas."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor, nn

from .schedule import karras_sigmas

# One generator for all images, or one for each of them.
Generators = torch.Generator | list[torch.Generator] | None


@dataclass(frozen=True)
class Request:
    """What images to draw; see :meth:`DiffusionModel.sample`."""

    shape: tuple[int, int, int]
    steps: int
    generator: Generators = None
    cond: Tensor | None = None
    guidance: float = 1.0


class Denoiser(Protocol):
    """What a sampler asks of a prior; every :class:`DiffusionModel` has it."""

    encoder_stride: int

    @property
    def noise_channels(self) -> int:
        """Channels of what noise is added to."""

    @property
    def null_class(self) -> int | None:
        """Label that stands for "no class", if there is one."""

    def check_size(self, height: int, width: int) -> None:
        """Raise ValueError if an image of this size cannot be drawn."""

    def predict(self, x_t: Tensor, t: float, cond: Tensor | None = None) -> Tensor:
        """Return the network's raw output."""

    def predict_x0(self, x_t: Tensor, t: float, cond: Tensor | None = None) -> Tensor:
        """Estimate the clean image."""

    def decode(self, x0: Tensor) -> Tensor:
        """Turn what noise is added to into images."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the weights."""


def guided(
    predict: Callable[[Tensor, float, Tensor | None], Tensor],
    null_class: int | None,
    guidance: float,
) -> Callable[[Tensor, float, Tensor | None], Tensor]:
    """Add classifier-free guidance to a prediction (Ho and Salimans 2022, eq. 6).

    Args:
        predict: Takes ``x``, time and classes.
        null_class: Label that stands for "no class".
        guidance: Weight; at 1 the prediction stays as it is.

    Raises:
        ValueError: If there is guidance but no "no class".
    """
    if guidance != 1 and null_class is None:
        raise ValueError(
            f'guidance={guidance} needs a class-conditional prior that was trained '
            'with label dropout; leave it at 1.'
        )

    def predict_guided(x: Tensor, t: float, cond: Tensor | None) -> Tensor:
        out = predict(x, t, cond)
        if guidance == 1 or cond is None:
            return out
        free = predict(x, t, torch.full_like(cond, null_class))
        return free + guidance * (out - free)

    return predict_guided


def draw_start(model: Denoiser, request: Request) -> Tensor:
    """Draw standard normal noise to start from."""
    count, height, width = request.shape
    model.check_size(height, width)
    factor = model.encoder_stride
    size = (model.noise_channels, height // factor, width // factor)
    given = request.generator
    generators: list = given if isinstance(given, list) else [given] * count
    noise = torch.stack([torch.randn(size, generator=g) for g in generators])
    return noise.to(next(model.parameters()).device)


# Scales of image and noise at one time: alpha and sigma of ``alpha x_0 + sigma eps``.
Scales = tuple[Tensor, Tensor]


def reverse_step(
    x: Tensor, x0: Tensor, here: Scales, there: Scales, noise: Tensor | None = None
) -> Tensor:
    """Go from one time to an earlier one, given an estimate of the image.

    Without noise it is DDIM's deterministic step; with noise, a draw from the posterior
    of ``x_s`` given ``x_t`` and ``x_0`` (ancestral; Song et al. 2021, "Denoising
    diffusion implicit models", eq. 12 and 16 with eta = 0 and 1). In terms of
    ``lambda = sigma / alpha`` one formula serves priors that count timesteps and those
    that count sigmas: ``s = sigma' sqrt(1 - (lambda' / lambda)^2)`` is the deviation of
    what is drawn. Differentiable in all of its arguments.

    Args:
        x: Noised images at the time t.
        x0: Estimate of the clean images.
        here: alpha and sigma at t; sigma is above 0.
        there: alpha' and sigma' at the earlier time s; sigma' may be 0.
        noise: Standard normal noise like ``x``; ``None`` is DDIM's step.

    Returns:
        The images at the time s.
    """
    (alpha, sigma), (next_alpha, next_sigma) = here, there
    predicted = (x - alpha * x0) / sigma
    if noise is None:
        return (next_alpha * x0 + next_sigma * predicted).to(x.dtype)
    ratio = (next_sigma * alpha / (next_alpha * sigma)).clamp(max=1)
    drawn = next_sigma * (1 - ratio**2).sqrt()
    kept = next_sigma * ratio
    return (next_alpha * x0 + kept * predicted + drawn * noise).to(x.dtype)


@torch.no_grad()
def sample_ddim(model: Denoiser, scheduler: DDPMScheduler, request: Request) -> Tensor:
    """Draw images with the steps of diffusers' ``DDIMScheduler``.

    Args:
        model: The prior.
        scheduler: Its noise schedule.
        request: What to draw; there is one evaluation per step.
    """
    predict = guided(model.predict, model.null_class, request.guidance)
    x = draw_start(model, request)
    ddim = DDIMScheduler.from_config(
        scheduler.config,
        timestep_spacing='trailing',
        clip_sample=model.encoder_stride == 1,
    )
    ddim.set_timesteps(request.steps)
    for t in ddim.timesteps.tolist():
        x = ddim.step(predict(x, t, request.cond), t, x).prev_sample
    return model.decode(x).clamp(-1, 1)


@torch.no_grad()
def sample_heun(
    model: Denoiser, sigma_range: tuple[float, float], request: Request
) -> Tensor:
    """Draw images by EDM's deterministic sampler (Karras et al. 2022, Algorithm 1).

    Args:
        model: The prior.
        sigma_range: Noise levels to end and to start with.
        request: What to draw; ``steps`` is the number of noise levels, and there are
            ``2 * steps - 1`` evaluations.
    """
    predict_x0 = guided(model.predict_x0, model.null_class, request.guidance)

    def slope(x: Tensor, sigma: float) -> Tensor:
        return (x - predict_x0(x, sigma, request.cond)) / sigma

    sigmas = [*karras_sigmas(request.steps, *sigma_range).tolist(), 0.0]
    x = draw_start(model, request) * sigmas[0]
    for sigma, next_sigma in zip(sigmas[:-1], sigmas[1:]):
        d = slope(x, sigma)
        if next_sigma > 0:  # the second order is not defined at 0
            euler = x + (next_sigma - sigma) * d
            d = (d + slope(euler, next_sigma)) / 2
        x = x + (next_sigma - sigma) * d
    return model.decode(x).clamp(-1, 1)
