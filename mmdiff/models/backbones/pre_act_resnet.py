"""Pre-activation ResNets for small images: PreAct-ResNet-18, WRN-28-10."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmcv.cnn import build_activation_layer, build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmdiff.registry import MODELS


class PreActBlock(BaseModule):
    """Two 3x3 convolutions, each behind normalisation and activation.

    Where the shape changes, the skip branches off behind the first activation, with a
    1x1 convolution (He et al. 2016, identity mappings).

    Args:
        in_channels, out_channels: Channels.
        stride: Of the first convolution.
        norm_cfg, act_cfg: As in mmcv.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        norm_cfg: dict,
        act_cfg: dict,
    ) -> None:
        super().__init__()
        self.norm1 = build_norm_layer(norm_cfg, in_channels)[1]
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm2 = build_norm_layer(norm_cfg, out_channels)[1]
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.activate = build_activation_layer(act_cfg)
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both branches."""
        out = self.activate(self.norm1(x))
        skip = x if self.shortcut is None else self.shortcut(out)
        return self.conv2(self.activate(self.norm2(self.conv1(out)))) + skip


@MODELS.register_module()
class PreActResNet(BaseModule):
    """ResNet with pre-activation and a 3x3 stem, for images of about 32 px.

    The defaults are PreAct-ResNet-18 (He et al. 2016), the usual network of adversarial
    training on CIFAR. ``stem_channels=16, widths=(160, 320, 640), blocks=(4, 4, 4)`` is
    WRN-28-10 (Zagoruyko and Komodakis 2016), with ``act_cfg=dict(type='SiLU')`` that of
    DM-AT (Wang et al. 2023).

    Args:
        stem_channels: Channels of the first convolution.
        widths: Channels of each stage.
        blocks: Blocks of each stage.
        norm_cfg, act_cfg: As in mmcv.
        init_cfg: As in mmengine.

    Raises:
        ValueError: If ``widths`` and ``blocks`` are not of the same stages.

    Example:
        >>> import torch
        >>> self = PreActResNet(4, widths=(4, 8), blocks=(1, 1))
        >>> [tuple(f.shape) for f in self(torch.zeros(1, 3, 32, 32))]
        [(1, 8, 16, 16)]
    """

    def __init__(
        self,
        stem_channels: int = 64,
        widths: Sequence[int] = (64, 128, 256, 512),
        blocks: Sequence[int] = (2, 2, 2, 2),
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        init_cfg: Any = None,
    ) -> None:
        if init_cfg is None:
            init_cfg = [dict(type='Kaiming', layer='Conv2d', mode='fan_out')]
        super().__init__(init_cfg)
        if len(widths) != len(blocks) or not widths:
            raise ValueError(
                f'widths={tuple(widths)} and blocks={tuple(blocks)} must have one '
                'number for each stage.'
            )
        norm_cfg = norm_cfg or dict(type='BN')
        act_cfg = act_cfg or dict(type='ReLU', inplace=True)
        self.stem = nn.Conv2d(3, stem_channels, 3, 1, 1, bias=False)
        self.stages = nn.ModuleList()
        channels = stem_channels
        for i, (width, count) in enumerate(zip(widths, blocks)):
            stage = nn.Sequential()
            for k in range(count):
                stride = 2 if i > 0 and k == 0 else 1
                stage.append(PreActBlock(channels, width, stride, norm_cfg, act_cfg))
                channels = width
            self.stages.append(stage)
        self.norm = build_norm_layer(norm_cfg, channels)[1]
        self.activate = build_activation_layer(act_cfg)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Return the features of the last stage, (N, widths[-1], H', W')."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return (self.activate(self.norm(x)),)
