"""Noise that depends on a seed and the position alone."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from operator import index as index_of

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

TILE = 64


@contextmanager
def _plain_torch() -> Iterator[None]:
    """Leave whatever the caller runs in: inference mode, fake tensors, a trace.

    Otherwise what is drawn would belong to that one call, and be cached for others.
    """
    tracing = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)
    try:
        with _disable_current_modes(), torch.inference_mode(False):
            yield
    finally:
        torch._C._set_tracing_state(tracing)


@lru_cache(maxsize=64)
def _tile(channels: int, seed: int, row: int, column: int) -> Tensor:
    # Mixed into one integer, so that neighbouring seeds and tiles share nothing.
    mixed = (seed * 1_000_003 + row) * 1_000_003 + column
    generator = torch.Generator().manual_seed(mixed % (2**63))
    shape = (channels, TILE, TILE)
    return torch.randn(shape, generator=generator, dtype=torch.float32, device='cpu')


@lru_cache(maxsize=16)
def _draw(channels: int, height: int, width: int, seed: int) -> Tensor:
    with _plain_torch():
        rows = [
            torch.cat(
                [_tile(channels, seed, i, j) for j in range(-(-width // TILE))], dim=2
            )
            for i in range(-(-height // TILE))
        ]
        return torch.cat(rows, dim=1)[None, :, :height, :width].contiguous()


def fixed_noise(shape: tuple[int, int, int], seed: int) -> Tensor:
    """Draw standard normal noise, (1, C, H, W), fp32 on the CPU.

    A pixel's noise does not change with the size of the image: padding a batch to a
    larger canvas leaves the noise of every image as it was. Nor does it change with
    the mode that the caller runs in; to a compiler or exporter it is a constant.

    Args:
        shape: (C, H, W).
        seed: Seed of the noise.
    """
    channels, height, width = (int(side) for side in shape)  # of a trace: tensors
    return _draw(channels, height, width, seed)


# What torch.compiler.assume_constant_result sets; calling it would import the compiler.
setattr(fixed_noise, '_dynamo_marked_constant', True)  # noqa: B010


class FixedNoise(nn.Module):
    """Noises of :func:`fixed_noise` as a buffer, up to a size.

    A larger image gets its noise as a constant. The buffer is not saved, moves with the
    module, and is never cast.

    Args:
        channels: Channels of the noise.
        size: Height and width that the buffer has room for.
        seeds: Seed of each noise.

    Example:
        >>> noise = FixedNoise(3, (32, 32), seeds=(7, 8))
        >>> image = torch.zeros(2, 3, 16, 96)
        >>> torch.equal(noise(image, 1), fixed_noise((3, 16, 96), 8))
        True
    """

    def __init__(
        self, channels: int, size: tuple[int, int], seeds: Sequence[int]
    ) -> None:
        super().__init__()
        self.seeds = tuple(seeds)
        with _plain_torch():
            drawn = [fixed_noise((channels, *size), seed) for seed in self.seeds]
            self.register_buffer('table', torch.cat(drawn), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: bool) -> nn.Module:
        """Move the noise with the module, but never cast it."""
        exact = self.table
        super()._apply(fn, *args)
        self.table = exact.to(self.table.device)
        return self

    def forward(self, x: Tensor, index: int = 0) -> Tensor:
        """Return the noise number ``index`` for images, (1, C, H, W) like ``x``.

        Args:
            x: Images, (N, C, H, W).
            index: Which of the noises.
        """
        height, width = x.shape[-2:]
        if height <= self.table.shape[-2] and width <= self.table.shape[-1]:
            noise = self.table[index : index + 1, :, :height, :width]
        else:
            # A compiler may take the sides for symbols; an index is a number.
            channels, height, width = (index_of(side) for side in x.shape[1:])
            noise = fixed_noise((channels, height, width), self.seeds[index])
        return noise.to(x)
