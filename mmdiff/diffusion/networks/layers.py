"""Layers of EDM's networks; parameters are named as in the published checkpoints."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Resample(nn.Module):
    """Halve (``'down'``) or double (``'up'``) H and W with a separable filter."""

    def __init__(self, mode: str, taps: Sequence[float]) -> None:
        super().__init__()
        self.mode = mode
        self.register_buffer('resample_filter', _outer(taps))

    def forward(self, x: Tensor) -> Tensor:
        return _resample(x, self.resample_filter, self.mode)


def _outer(taps: Sequence[float]) -> Tensor:
    line = torch.tensor(list(taps), dtype=torch.float32)
    return (torch.outer(line, line) / line.sum() ** 2)[None, None]


def _resample(x: Tensor, kernel: Tensor, mode: str, padded: bool = False) -> Tensor:
    weight = kernel.repeat(x.shape[1], 1, 1, 1)
    padding = 0 if padded else (kernel.shape[-1] - 1) // 2
    if mode == 'up':
        return F.conv_transpose2d(x, 4 * weight, None, 2, padding, groups=x.shape[1])
    return F.conv2d(x, weight, None, 2, padding, groups=x.shape[1])


class Conv2d(nn.Conv2d):
    """Convolution of an odd kernel, after a resampling (``fused``: before it)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        mode: str | None = None,
        taps: Sequence[float] = (1, 1),
        fused: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2)
        self.mode, self.fused = mode, fused
        self.register_buffer('resample_filter', _outer(taps) if mode else None)

    def forward(self, x: Tensor) -> Tensor:
        if self.fused:
            padding = self.padding[0] + (self.resample_filter.shape[-1] - 1) // 2
            x = F.conv2d(x, self.weight, self.bias, padding=padding)
            return _resample(x, self.resample_filter, self.mode, padded=True)
        if self.mode:
            x = _resample(x, self.resample_filter, self.mode)
        return super().forward(x)


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    """32 groups, or fewer: of at least 4 channels each."""
    return nn.GroupNorm(min(32, channels // 4), channels, eps)


class UNetBlock(nn.Module):
    """Residual block with optional resampling and self-attention.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        emb_channels: Of the embedding of noise level and class.
        song: As in DDPM++ and NCSN++; otherwise as in ADM.
        mode: ``'up'``, ``'down'`` or ``None``.
        attend: Whether self-attention follows.
        dropout: Before the last convolution.
        taps: Filter of the resampling.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        song: bool,
        mode: str | None = None,
        attend: bool = False,
        dropout: float = 0.0,
        taps: Sequence[float] = (1, 1),
    ) -> None:
        super().__init__()
        self.song, self.dropout = song, dropout
        self.heads = attend and (1 if song else out_channels // 64)
        self.scale = math.sqrt(0.5) if song else 1.0
        eps = 1e-6 if song else 1e-5
        self.norm0 = group_norm(in_channels, eps)
        self.conv0 = Conv2d(in_channels, out_channels, 3, mode, taps)
        self.affine = nn.Linear(emb_channels, out_channels * (1 if song else 2))
        self.norm1 = group_norm(out_channels, eps)
        self.conv1 = Conv2d(out_channels, out_channels, 3)
        if in_channels != out_channels or (mode and song):
            self.skip = Conv2d(in_channels, out_channels, 1, mode, taps)
        else:
            self.skip = Resample(mode, taps) if mode else nn.Identity()
        if self.heads:
            self.norm2 = group_norm(out_channels, eps)
            self.qkv = Conv2d(out_channels, 3 * out_channels, 1)
            self.proj = Conv2d(out_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x)))
        shift = self.affine(emb)[:, :, None, None]
        if self.song:
            h = self.norm1(h + shift)
        else:
            scale, shift = shift.chunk(2, dim=1)
            h = self.norm1(h) * (scale + 1) + shift
        h = self.conv1(F.dropout(F.silu(h), self.dropout, self.training))
        x = (h + self.skip(x)) * self.scale
        if not self.heads:
            return x
        # Channels count heads first, then channels of a head, then query, key, value.
        qkv = self.qkv(self.norm2(x)).flatten(2).unflatten(1, (self.heads, -1, 3))
        out = F.scaled_dot_product_attention(*qkv.transpose(2, 4).unbind(3))
        return (x + self.proj(out.transpose(2, 3).reshape(x.shape))) * self.scale


class NoiseEmbedding(nn.Module):
    """Cosines, then sines of a noise label: (N,) -> (N, channels), in fp32.

    Frequencies are random (``fourier``), or fall from 1 to 1/10000, which the last one
    reaches (``endpoint``) or not.
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

    def _apply(self, fn, *args):
        exact = self.freqs  # means nothing in half precision: moved, never cast
        super()._apply(fn, *args)
        self.freqs = exact.to(self.freqs.device)
        return self

    def forward(self, noise: Tensor) -> Tensor:
        phase = torch.outer(noise, self.scale * self.freqs)
        return torch.cat([phase.cos(), phase.sin()], dim=1)
