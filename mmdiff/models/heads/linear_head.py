"""The linear head of diffusion classifiers."""

from __future__ import annotations

from typing import Any

from mmpretrain.models.heads import LinearClsHead
from torch import Tensor, nn

from mmdiff.registry import MODELS

from .features import last_feature


@MODELS.register_module()
class PooledLinearClsHead(LinearClsHead):
    """mmpretrain's linear head on a feature that is averaged to ``pool`` x ``pool``.

    Linear probes of diffusion features differ in that size: 1 in "Diffusion Models are
    Robust Pretrainers" (2025), 2 in Mukhopadhyay et al., "Do text-free diffusion models
    learn discriminative visual representations?" (2023). With 1 it is mmpretrain's
    ``GlobalAveragePooling`` and ``LinearClsHead``, but says what does not fit.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the last tap that the backbone gives.
        pool: Side that features are pooled to; no more than their own.
        **kwargs: Of mmpretrain's ``LinearClsHead``: ``loss``, ``topk``, ``cal_acc``,
            ``init_cfg``.

    Raises:
        ValueError: If ``pool`` is less than 1, or features do not fit the head.

    Example:
        >>> import torch
        >>> head = PooledLinearClsHead(num_classes=10, in_channels=16, pool=2)
        >>> head((torch.zeros(2, 16, 8, 8),)).shape, head.fc.in_features
        (torch.Size([2, 10]), 64)
    """

    def __init__(
        self, num_classes: int, in_channels: int, pool: int = 1, **kwargs: Any
    ) -> None:
        if pool < 1:
            raise ValueError(f'pool={pool} must be at least 1.')
        super().__init__(num_classes, in_channels * pool**2, **kwargs)
        self.tap_channels, self.pool = in_channels, pool

    def pre_logits(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Return the averaged features, (N, C pool^2).

        Args:
            feats: Features of the backbone; the last one, (N, C, H, W), is used.

        Raises:
            ValueError: If it has other channels, or is smaller than ``pool``.
        """
        x = last_feature(feats, self.tap_channels, self.pool)
        return nn.functional.adaptive_avg_pool2d(x, self.pool).flatten(1)
