"""Noise that depends on a seed and the position alone."""

from functools import lru_cache

import torch
from torch import Tensor

TILE = 64


@lru_cache(maxsize=64)
def _tile(channels: int, seed: int, row: int, column: int) -> Tensor:
    # Mixed into one integer, so that neighbouring seeds and tiles share nothing.
    mixed = (seed * 1_000_003 + row) * 1_000_003 + column
    generator = torch.Generator().manual_seed(mixed % (2**63))
    return torch.randn(channels, TILE, TILE, generator=generator)


@lru_cache(maxsize=16)
def fixed_noise(shape: tuple[int, int, int], seed: int) -> Tensor:
    """Draw standard normal noise, (1, C, H, W), on the CPU.

    A pixel's noise does not change with the size of the image: padding a batch to a
    larger canvas leaves the noise of every image as it was.

    Args:
        shape: (C, H, W).
        seed: Seed of the noise.
    """
    channels, height, width = shape
    rows = [
        torch.cat(
            [_tile(channels, seed, i, j) for j in range(-(-width // TILE))], dim=2
        )
        for i in range(-(-height // TILE))
    ]
    return torch.cat(rows, dim=1)[None, :, :height, :width].contiguous()
