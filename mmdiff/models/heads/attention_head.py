"""The attention head of diffusion classifiers."""

from __future__ import annotations

from typing import Any

import torch
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from mmpretrain.models.heads import ClsHead
from torch import Tensor, nn

from mmdiff.registry import MODELS

from .features import last_feature

NORMS = ('LN', 'BN')


@MODELS.register_module()
class AttentionClsHead(ClsHead):
    """Classes from attention over the features of a frozen prior.

    Average pooling to ``pool`` x ``pool``, a norm, a 1x1 convolution, a class token in
    front (zero at first), ``depth`` pre-norm transformer blocks without positional
    embedding or biases of queries, keys and values, and a linear layer on the class
    token. That of Mukhopadhyay et al., "Do text-free diffusion models learn
    discriminative visual representations?" (2023), as the head of "Diffusion Models
    are Robust Pretrainers" (2025).

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the last tap that the backbone gives (it is the width
            of all layers).
        pool: Side that features are pooled to; no more than their own.
        depth: Number of transformer blocks.
        num_heads: Attention heads of each; a divisor of ``in_channels``.
        norm: ``'LN'``: over all of a pooled feature, so ``pool`` has to be its side;
            ``'BN'``: batch norm.
        **kwargs: Of mmpretrain's ``ClsHead``: ``loss``, ``topk``, ``cal_acc``,
            ``init_cfg``.

    Raises:
        ValueError: If settings do not fit each other, or features do not fit them.

    Example:
        >>> head = AttentionClsHead(num_classes=10, in_channels=16, pool=4)
        >>> head((torch.zeros(2, 16, 8, 8),)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        pool: int = 16,
        depth: int = 2,
        num_heads: int = 8,
        norm: str = 'LN',
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._check(num_classes, in_channels, num_heads, norm)
        self.num_classes, self.in_channels, self.pool = num_classes, in_channels, pool
        if norm == 'LN':
            self.norm: nn.Module = nn.LayerNorm([in_channels, pool, pool])
        else:
            self.norm = nn.BatchNorm2d(in_channels)
        self.projection = nn.Conv2d(in_channels, in_channels, 1)
        self.class_token = nn.Parameter(torch.zeros(1, 1, in_channels))
        self.blocks = nn.Sequential(
            *(
                TransformerEncoderLayer(
                    in_channels, num_heads, 4 * in_channels, qkv_bias=False
                )
                for _ in range(depth)
            )
        )
        self.fc = nn.Linear(in_channels, num_classes)

    @staticmethod
    def _check(num_classes: int, in_channels: int, num_heads: int, norm: str) -> None:
        if num_classes < 1:
            raise ValueError(f'num_classes={num_classes} must be at least 1.')
        if in_channels % num_heads:
            raise ValueError(
                f'num_heads={num_heads} does not divide in_channels={in_channels}.'
            )
        if norm not in NORMS:
            raise ValueError(f'norm={norm!r} must be one of {NORMS}.')

    def pre_logits(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Return the class token after all blocks, (N, C).

        Args:
            feats: Features of the backbone; the last one, (N, C, H, W), is used.

        Raises:
            ValueError: If it has other channels, or is smaller than ``pool``.
        """
        x = last_feature(feats, self.in_channels, self.pool)
        x = nn.functional.adaptive_avg_pool2d(x, self.pool)
        x = self.projection(self.norm(x)).flatten(2).transpose(1, 2)
        token = self.class_token.expand(len(x), -1, -1)
        return self.blocks(torch.cat([token, x], 1))[:, 0]

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Return class logits, (N, K)."""
        return self.fc(self.pre_logits(feats))
