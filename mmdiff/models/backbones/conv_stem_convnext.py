"""ConvNeXt with convolutions of stride 2 in the place of its patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmpretrain.models import ConvNeXt
from mmpretrain.models.utils import build_norm_layer
from torch import nn

from mmdiff.registry import MODELS


@MODELS.register_module()
class ConvStemConvNeXt(ConvNeXt):
    """ConvNeXt with the convolutional stem of Singh et al. (2023).

    Their adversarially trained networks begin with 3x3 convolutions, each with
    normalisation and GELU behind it, the first two of stride 2. Weights come from
    ``tools/convert_checkpoint.py robust-convnext``; they take RGB in 0..1, so the
    preprocessor has ``mean=[0, 0, 0], std=[255, 255, 255]``.

    Args:
        arch: As of mmpretrain's ``ConvNeXt``.
        stem_channels: Channels of each convolution; (48, 96) of the tiny and small
            network, (64, 96, 128) of the base one, (96, 144, 192) of the large one.
        act_cfg, norm_cfg: As in mmpretrain, of stem and blocks.
        **kwargs: Of mmpretrain's ``ConvNeXt``.

    Raises:
        ValueError: If the stem has less than two convolutions, or the last one has
            other channels than the first stage.

    Example:
        >>> import torch
        >>> arch = dict(depths=[1, 1, 1, 1], channels=[8, 16, 32, 64])
        >>> self = ConvStemConvNeXt(arch, (4, 8), out_indices=(0, 3),
        ...     gap_before_final_norm=False)
        >>> [tuple(f.shape) for f in self(torch.zeros(1, 3, 64, 64))]
        [(1, 8, 16, 16), (1, 64, 2, 2)]
    """

    def __init__(
        self,
        arch: str | dict = 'tiny',
        stem_channels: Sequence[int] = (48, 96),
        act_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        **kwargs: Any,
    ) -> None:
        act_cfg = act_cfg or dict(type='GELU')
        norm_cfg = norm_cfg or dict(type='LN2d', eps=1e-6)
        super().__init__(arch, act_cfg=act_cfg, norm_cfg=norm_cfg, **kwargs)
        if len(stem_channels) < 2 or stem_channels[-1] != self.channels[0]:
            raise ValueError(
                f'stem_channels={tuple(stem_channels)} must have two numbers or more, '
                f'and end with the {self.channels[0]} channels of the first stage.'
            )
        stem = nn.Sequential()
        before = 3
        for place, channels in enumerate(stem_channels):
            stride = 2 if place < 2 else 1
            stem.append(nn.Conv2d(before, channels, 3, stride, 1))
            stem.append(build_norm_layer(norm_cfg, channels))
            stem.append(MODELS.build(act_cfg))
            before = channels
        self.downsample_layers[0] = stem
        self._freeze_stages()
