"""Samplers: DDIM for priors that count timesteps, Heun for those that count sigmas."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor
from torchvision.utils import make_grid

from .schedule import karras_sigmas

# One for all images, or one for each of them.
Generators = torch.Generator | list[torch.Generator] | None

if TYPE_CHECKING:
    from .diffusion_model import DiffusionModel


def _guided(predict, null, x: Tensor, t, cond: Tensor | None, guidance: float):
    """Prediction with classifier-free guidance (Ho and Salimans 2022, eq. 6)."""
    out = predict(x, t, cond)
    if guidance == 1 or cond is None:
        return out
    free = predict(x, t, torch.full_like(cond, null))
    return free + guidance * (out - free)


def _null_class(model: DiffusionModel, guidance: float) -> int | None:
    if guidance != 1 and model.null_class is None:
        raise ValueError(
            f'guidance={guidance} needs a class-conditional prior that was trained '
            'with label dropout; leave it at 1.'
        )
    return model.null_class


def _start(model: DiffusionModel, shape, generator) -> Tensor:
    count, height, width = shape
    model.check_size(height, width)
    factor = model.encoder_stride
    size = (model.noise_channels, height // factor, width // factor)
    generators = generator if isinstance(generator, list) else [generator] * count
    noise = torch.stack([torch.randn(size, generator=g) for g in generators])
    return noise.to(next(model.parameters()).device)


@torch.no_grad()
def sample_ddim(
    model: DiffusionModel,
    shape: tuple[int, int, int],
    steps: int,
    generator: Generators = None,
    cond: Tensor | None = None,
    guidance: float = 1.0,
) -> Tensor:
    """See :meth:`DiffusionModel.sample`; diffusers' ``DDIMScheduler`` steps."""
    null = _null_class(model, guidance)
    x = _start(model, shape, generator)
    scheduler = DDIMScheduler.from_config(
        model.scheduler.config,
        timestep_spacing='trailing',
        clip_sample=model.encoder_stride == 1,
    )
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps.tolist():
        out = _guided(model.predict, null, x, t, cond, guidance)
        x = scheduler.step(out, t, x).prev_sample
    return model.decode(x).clamp(-1, 1)


@torch.no_grad()
def sample_heun(
    model: DiffusionModel,
    shape: tuple[int, int, int],
    steps: int,
    generator: Generators = None,
    cond: Tensor | None = None,
    guidance: float = 1.0,
) -> Tensor:
    """Deterministic Heun sampler of EDM (Karras et al. 2022, Algorithm 1).

    Arguments as :meth:`DiffusionModel.sample`; ``2 * steps - 1`` evaluations.
    """
    null = _null_class(model, guidance)
    sigmas = [*karras_sigmas(steps, *model.sigma_range).tolist(), 0.0]
    x = _start(model, shape, generator) * sigmas[0]

    def slope(x: Tensor, sigma: float) -> Tensor:
        x0 = _guided(model.predict_x0, null, x, sigma, cond, guidance)
        return (x - x0) / sigma

    for sigma, after in zip(sigmas[:-1], sigmas[1:]):
        d = slope(x, sigma)
        euler = x + (after - sigma) * d
        if after > 0:
            d = (d + slope(euler, after)) / 2
        x = x + (after - sigma) * d
    return model.decode(x).clamp(-1, 1)


def sample_grid(
    model: DiffusionModel,
    num: int,
    steps: int = 25,
    seed: int = 0,
    guidance: float = 1.0,
) -> np.ndarray:
    """Samples in a grid of about as many rows as columns.

    Args:
        model: The prior.
        num: Images; of a class-conditional prior, classes in turn.
        steps: See :meth:`DiffusionModel.sample`.
        seed: Of the starting noise.
        guidance: See :meth:`DiffusionModel.sample`.

    Returns:
        RGB uint8, (rows * H, columns * W, 3).
    """
    size = model.image_size
    cond = None
    if model.num_classes:
        device = next(model.parameters()).device
        cond = torch.arange(num, device=device) % model.num_classes
    images = model.sample(
        (num, size, size),
        steps,
        torch.Generator().manual_seed(seed),
        cond,
        guidance,
    )
    columns = math.ceil(num**0.5)
    grid = make_grid(to_uint8(images), columns, padding=0)
    return grid.permute(1, 2, 0).cpu().numpy()


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] -> whole pixel values 0..255."""
    return ((images + 1) * 127.5).round().clamp(0, 255).byte()
