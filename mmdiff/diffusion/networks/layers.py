"""Layers of EDM's networks; parameters are named as in the published checkpoints."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Resample(nn.Module):
    """Halve (``'down'``) or double (``'up'``) H and W with a separable FIR filter.

    Example:
        >>> Resample('down', (1, 1))(torch.zeros(1, 3, 8, 8)).shape
        torch.Size([1, 3, 4, 4])
    """

    def __init__(self, mode: str, resample_filter: Sequence[float]) -> None:
        super().__init__()
        self.mode = mode
        self.register_buffer('resample_filter', separable_kernel(resample_filter))

    def forward(self, x: Tensor) -> Tensor:
        return resample(x, self.resample_filter, self.mode)


def separable_kernel(resample_filter: Sequence[float]) -> Tensor:
    """Make the two-dimensional kernel, of sum 1, of a filter: (1, 1, K, K)."""
    line = torch.tensor(list(resample_filter), dtype=torch.float32)
    return (torch.outer(line, line) / line.sum() ** 2)[None, None]


def resample(x: Tensor, kernel: Tensor, mode: str, padded: bool = False) -> Tensor:
    """Filter every channel, at half or double the resolution.

    Args:
        x: Features, (N, C, H, W).
        kernel: See :func:`separable_kernel`.
        mode: ``'down'`` or ``'up'``.
        padded: Whether ``x`` has the padding already that the kernel needs.
    """
    weight = kernel.repeat(x.shape[1], 1, 1, 1)
    padding = 0 if padded else (kernel.shape[-1] - 1) // 2
    if mode == 'up':
        return F.conv_transpose2d(x, 4 * weight, None, 2, padding, groups=x.shape[1])
    return F.conv2d(x, weight, None, 2, padding, groups=x.shape[1])


class Conv2d(nn.Conv2d):
    """Convolution of an odd kernel, with a resampling before it or after it.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Side of the kernel.
        mode: ``'up'``, ``'down'`` or ``None``.
        resample_filter: Filter of the resampling.
        resample_last: Whether the resampling comes after the convolution.

    Example:
        >>> Conv2d(3, 4, 3, mode='up')(torch.zeros(1, 3, 8, 8)).shape
        torch.Size([1, 4, 16, 16])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        mode: str | None = None,
        resample_filter: Sequence[float] = (1, 1),
        resample_last: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2)
        self.mode, self.resample_last = mode, resample_last
        self.register_buffer(
            'resample_filter', separable_kernel(resample_filter) if mode else None
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.mode is None:
            return super().forward(x)
        if not self.resample_last:
            return super().forward(resample(x, self.resample_filter, self.mode))
        # One padding for both.
        padding = self.padding[0] + (self.resample_filter.shape[-1] - 1) // 2
        x = F.conv2d(x, self.weight, self.bias, padding=padding)
        return resample(x, self.resample_filter, self.mode, padded=True)


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    """Make 32 groups, or fewer: they have at least 4 channels each."""
    return nn.GroupNorm(min(32, channels // 4), channels, eps)


class UNetBlock(nn.Module):
    """Residual block with optional resampling and self-attention.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        emb_channels: Channels of the embedding of noise level and class.
        mode: ``'up'``, ``'down'`` or ``None``.
        num_heads: Heads of the self-attention that follows; 0 is none.
        dropout: Share that is dropped before the last convolution.
        skip_scale: Factor of every sum with a skip connection.
        eps: Of the group norms.
        resample_filter: Filter of the resampling.
        resample_proj: Whether a skip connection that resamples also convolves.
        adaptive_scale: Whether the embedding scales the features and shifts them, or
            shifts them only.

    Example:
        >>> block = UNetBlock(4, 8, emb_channels=16, num_heads=2)
        >>> block(torch.zeros(1, 4, 8, 8), torch.zeros(1, 16)).shape
        torch.Size([1, 8, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        mode: str | None = None,
        num_heads: int = 0,
        dropout: float = 0.0,
        skip_scale: float = 1.0,
        eps: float = 1e-5,
        resample_filter: Sequence[float] = (1, 1),
        resample_proj: bool = False,
        adaptive_scale: bool = True,
    ) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.skip_scale, self.adaptive_scale = skip_scale, adaptive_scale
        self.norm0 = group_norm(in_channels, eps)
        self.conv0 = Conv2d(in_channels, out_channels, 3, mode, resample_filter)
        self.affine = nn.Linear(emb_channels, out_channels * (1 + adaptive_scale))
        self.norm1 = group_norm(out_channels, eps)
        self.conv1 = Conv2d(out_channels, out_channels, 3)
        if in_channels != out_channels or (mode and resample_proj):
            self.skip = Conv2d(in_channels, out_channels, 1, mode, resample_filter)
        elif mode:
            self.skip = Resample(mode, resample_filter)
        else:
            self.skip = nn.Identity()
        if num_heads:
            self.norm2 = group_norm(out_channels, eps)
            self.qkv = Conv2d(out_channels, 3 * out_channels, 1)
            self.proj = Conv2d(out_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map features (N, C, H, W) and embeddings (N, D) to features."""
        h = self.conv0(F.silu(self.norm0(x)))
        shift = self.affine(emb)[:, :, None, None]
        if self.adaptive_scale:
            scale, shift = shift.chunk(2, dim=1)
            h = self.norm1(h) * (scale + 1) + shift
        else:
            h = self.norm1(h + shift)
        h = self.conv1(F.dropout(F.silu(h), self.dropout, self.training))
        x = (h + self.skip(x)) * self.skip_scale
        return self._attend(x) if self.num_heads else x

    def _attend(self, x: Tensor) -> Tensor:
        # Channels count heads first, then channels of a head, then query, key, value.
        qkv = self.qkv(self.norm2(x)).flatten(2).unflatten(1, (self.num_heads, -1, 3))
        out = F.scaled_dot_product_attention(*qkv.transpose(2, 4).unbind(3))
        return (x + self.proj(out.transpose(2, 3).reshape(x.shape))) * self.skip_scale


class NoiseEmbedding(nn.Module):
    """Cosines, then sines of a noise label: (N,) -> (N, channels), in fp32.

    Args:
        channels: Length of the embedding.
        fourier: Whether the frequencies are random; otherwise they fall from 1 to
            1/10000.
        endpoint: Whether the last of the falling frequencies is 1/10000, or the one
            after it would be.

    Example:
        >>> NoiseEmbedding(8, fourier=False, endpoint=True)(torch.ones(2)).shape
        torch.Size([2, 8])
    """

    def __init__(self, channels: int, fourier: bool, endpoint: bool) -> None:
        super().__init__()
        count = channels // 2
        if fourier:
            freqs = torch.randn(count) * 16
        else:
            freqs = 10000 ** (-torch.arange(count) / (count - endpoint))
        self.scale = 2 * math.pi if fourier else 1.0
        self.register_buffer('freqs', freqs, persistent=fourier)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: bool) -> nn.Module:
        """Move the frequencies, but never cast them: half of them would be wrong."""
        exact = self.freqs
        super()._apply(fn, *args)
        self.freqs = exact.to(self.freqs.device)
        return self

    def forward(self, noise: Tensor) -> Tensor:
        phase = torch.outer(noise, self.scale * self.freqs)
        return torch.cat([phase.cos(), phase.sin()], dim=1)
