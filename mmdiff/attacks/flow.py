"""Displacements of pixels: what a spatial attack changes in place of pixel values.

A flow has shape (2, H, W), in pixels: columns first, then rows. A displaced image has
at each pixel the value of the clean one that far to the right and down, interpolated
bilinearly; beyond the border it has that of the border.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def displace(x: Tensor, flow: Tensor) -> Tensor:
    """Move the pixels of an image; differentiable to both.

    Args:
        x: The image, (C, H, W).
        flow: Displacements in pixels, (2, H, W).

    Example:
        >>> x = torch.arange(4.0).expand(1, 2, 4)
        >>> flow = torch.stack([torch.full((2, 4), 0.5), torch.zeros(2, 4)])
        >>> displace(x, flow)[0, 0].tolist()
        [0.5, 1.5, 2.5, 3.0]
    """
    height, width = x.shape[-2:]
    rows = torch.arange(height, device=x.device, dtype=x.dtype)
    columns = torch.arange(width, device=x.device, dtype=x.dtype)
    # Of grid_sample: -1 and 1 are the outer edges of the first and the last pixel.
    across = (2 * (columns + flow[0]) + 1) / width - 1
    down = (2 * (rows[:, None] + flow[1]) + 1) / height - 1
    grid = torch.stack([across, down], -1)[None]
    return F.grid_sample(
        x[None], grid, 'bilinear', padding_mode='border', align_corners=False
    )[0]


def lengths(flow: Tensor) -> Tensor:
    """How far each pixel is displaced, (H, W), in pixels."""
    return flow.square().sum(0).sqrt()


def shorten(flow: Tensor, radius: float) -> Tensor:
    """Return the nearest flow that displaces no pixel by more than ``radius``."""
    longest = lengths(flow).clamp(min=max(radius, 1e-12))
    return flow * (radius / longest)


def roughness(flow: Tensor) -> Tensor:
    """Return how much neighbours are displaced otherwise, a scalar.

    The sum over pixels and their right and lower neighbours of the distance between the
    ends of their displacements (Xiao et al. 2018, equation 4, which counts each pair of
    neighbours twice). Where it is 0, its slope is 0.
    """
    total = flow.new_zeros(())
    for axis in (1, 2):
        # The root has no slope at 0, where all flows begin.
        apart = flow.diff(dim=axis).square().sum(0)
        total = total + (apart + 1e-8).sqrt().sum()
    return total


def random_flow(
    like: Tensor, radius: float, generator: torch.Generator, edge: bool = False
) -> Tensor:
    """Draw a displacement for each pixel by itself, (2, H, W).

    Args:
        like: The image, (C, H, W).
        radius: Longest displacement in pixels.
        generator: Generator on the CPU.
        edge: Displace each pixel by ``radius``, in a random direction, instead of
            anywhere in the disc.
    """
    shape = like.shape[-2:]
    angle = torch.rand(shape, generator=generator) * 2 * math.pi
    share = torch.rand(shape, generator=generator).sqrt()
    length = radius * (torch.ones(shape) if edge else share)
    return torch.stack([angle.cos() * length, angle.sin() * length]).to(like)


def reach(x: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Lowest and highest values that displacements of a length can bring to a pixel.

    Those of the pixels around it that bilinear interpolation can read: no displacement
    of at most ``radius`` gives a value outside.

    Args:
        x: The image, (C, H, W).
        radius: Longest displacement in pixels.
    """
    far = math.ceil(radius)
    inputs = x[None]
    # Axis by axis: a window of the size of the image is slow otherwise.
    for size, pad in (((2 * far + 1, 1), (far, 0)), ((1, 2 * far + 1), (0, far))):
        inputs = F.max_pool2d(inputs, size, 1, pad)
    highest, inputs = inputs[0], -x[None]
    for size, pad in (((2 * far + 1, 1), (far, 0)), ((1, 2 * far + 1), (0, far))):
        inputs = F.max_pool2d(inputs, size, 1, pad)
    return -inputs[0], highest
