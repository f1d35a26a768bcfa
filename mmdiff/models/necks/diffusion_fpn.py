"""From the taps of a diffusion U-Net to a feature pyramid."""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmdet.models.necks import FPN
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmdiff.registry import MODELS


@MODELS.register_module()
class DiffusionFPN(BaseModule):
    """Project taps, merge them by stride, resample, then mmdet's FPN.

    Each tap gets a 1x1 convolution and a norm and is added to the level of its
    stride (or the nearest one); levels without a tap are resampled from the nearest
    that has one (average pooling down, bilinear up). Strides beyond the coarsest tap
    are the FPN's extra levels.

    Args:
        in_channels: Channels of each tap (``DiffusionUNet.out_channels``).
        in_strides: Stride of each tap (``DiffusionUNet.out_strides``).
        out_channels: Channels of every level.
        out_strides: Strides of the levels, each twice the one before.
        norm_cfg: Norm of all layers, those of the FPN included. ``None`` is GroupNorm
            after the projections and none in the FPN.
        init_cfg: As in mmengine.
        **fpn_kwargs: Go to mmdet's ``FPN`` (``add_extra_convs``, ``act_cfg``, ...).

    Raises:
        ValueError: If channels and strides do not match, or ``out_strides`` do not
            double.

    Example:
        >>> import torch
        >>> self = DiffusionFPN([8, 4], [8, 4], 16, out_strides=(4, 8, 16)).eval()
        >>> taps = torch.rand(1, 8, 8, 8), torch.rand(1, 4, 16, 16)
        >>> [tuple(level.shape[1:]) for level in self(taps)]
        [(16, 16, 16), (16, 8, 8), (16, 4, 4)]
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        out_channels: int = 256,
        out_strides: Sequence[int] = (4, 8, 16, 32, 64),
        norm_cfg: dict | None = None,
        init_cfg: dict | list | None = None,
        **fpn_kwargs,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        _check_levels(in_channels, in_strides, out_strides)
        self.in_strides = list(in_strides)
        projection_norm = norm_cfg or dict(
            type='GN', num_groups=math.gcd(32, out_channels)
        )
        self.projections = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, out_channels, 1),
                build_norm_layer(projection_norm, out_channels)[1],
            )
            for channels in in_channels
        )
        # Coarser levels than any tap come from the FPN, but it needs one to start from.
        coarsest = max(*in_strides, out_strides[0])
        self.base_strides = [s for s in out_strides if s <= coarsest]
        # Decided here, once: compilers do not see through the choice.
        self.levels = [_nearest(s, self.base_strides) for s in in_strides]
        self.sources = [_nearest(s, self.levels) for s in self.base_strides]
        self.fpn = FPN(
            in_channels=[out_channels] * len(self.base_strides),
            out_channels=out_channels,
            num_outs=len(out_strides),
            norm_cfg=norm_cfg,
            **fpn_kwargs,
        )

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Turn taps into levels, (N, out_channels, H / s, W / s) for every stride s.

        Args:
            inputs: Taps, (N, C_i, H / s_i, W / s_i) of the stride s_i.

        Raises:
            ValueError: If the number of inputs is not that of the taps.
        """
        if len(inputs) != len(self.in_strides):
            raise ValueError(
                f'DiffusionFPN was built for {len(self.in_strides)} taps and got '
                f'{len(inputs)}; make in_channels match the backbone.'
            )
        height, width = (side * self.in_strides[0] for side in inputs[0].shape[-2:])
        sizes = {s: (-(-height // s), -(-width // s)) for s in self.base_strides}
        levels: dict[int, Tensor] = {}
        for x, level, project in zip(inputs, self.levels, self.projections):
            x = _resample(project(x), sizes[level])
            levels[level] = levels[level] + x if level in levels else x
        return self.fpn(
            tuple(
                _resample(levels[source], size)
                for source, size in zip(self.sources, sizes.values())
            )
        )


def _check_levels(
    in_channels: Sequence[int], in_strides: Sequence[int], out_strides: Sequence[int]
) -> None:
    if len(in_channels) != len(in_strides) or not in_channels:
        raise ValueError(
            f'in_channels={list(in_channels)} and in_strides={list(in_strides)} must '
            'name the same taps, at least one: copy out_channels and out_strides of '
            'the backbone (DiffusionUNet logs them).'
        )
    if any(b != 2 * a for a, b in zip(out_strides, out_strides[1:])):
        raise ValueError(
            f'out_strides={list(out_strides)} must double from level to level, as '
            '(4, 8, 16, 32).'
        )


def _nearest(stride: int, strides: Sequence[int]) -> int:
    """Return the nearest stride in octaves; of two, the finer one."""
    return min(strides, key=lambda s: (abs(math.log2(s / stride)), s))


def _resample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Pool to a smaller size, or interpolate bilinearly to a larger one."""
    if tuple(x.shape[-2:]) == size:
        return x
    if x.shape[-2] > size[0]:
        return F.adaptive_avg_pool2d(x, size)
    return F.interpolate(x, size, mode='bilinear', align_corners=False)
