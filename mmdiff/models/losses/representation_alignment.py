"""Diffusion representation alignment (DRA): features that point as a prior's do."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdiff.registry import MODELS
from mmdiff.utils.modules import autocast_off

from .adversarial import check_weight

# Share of a batch in the running mean of r.
MEAN_SHARE = 0.01


@MODELS.register_module()
class RepresentationAlignmentLoss(nn.Module):
    """``lambda (1 - cos(g(h), r))`` (Huang et al. 2026).

    h are a model's features, r those of a frozen prior, and g is a projector that
    trains along: linear layers with SiLU between them. The published form is of pooled
    vectors. The dense form, for detectors, compares maps position by position, r
    resampled to the size of h.

    What the paper does not say is set as REPA has it (Yu et al. 2025): three layers of
    width 2048.

    Args:
        in_channels: Width of h.
        out_channels: Width of r; by :class:`mmdiff.models.AlignedModel` that of the
            prior.
        loss_weight: lambda.
        hidden_channels: Width between the layers.
        num_layers: Layers of the projector; 1 is a linear map.
        dense: Compare maps, not averages over them.
        centred: Take off r its mean over images, of the first hundred batches, then of
            about the last hundred. Averages of a prior's maps point mostly the same way
            for all images: on CIFAR-10 their mean alone has a cosine of 0.95 with them,
            which leaves little to align. Without it the loss is the published one.

    Raises:
        ValueError: For a negative ``loss_weight``, or a width or number below 1.

    Example:
        >>> loss = RepresentationAlignmentLoss(8, 4, loss_weight=0.5)
        >>> h, r = torch.zeros(2, 8, 3, 3), torch.ones(2, 4, 6, 6)
        >>> sorted(loss(h, r))
        ['alignment_cos', 'loss_alignment']
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        loss_weight: float = 1.0,
        hidden_channels: int = 2048,
        num_layers: int = 3,
        dense: bool = False,
        centred: bool = False,
    ) -> None:
        super().__init__()
        check_weight('loss_weight (lambda)', loss_weight)
        sizes = {
            'in_channels': in_channels,
            'out_channels': out_channels,
            'hidden_channels': hidden_channels,
            'num_layers': num_layers,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f'{name}={size} must be at least 1.')
        self.loss_weight, self.dense = loss_weight, dense
        self.in_channels, self.out_channels = in_channels, out_channels
        widths = [in_channels, *[hidden_channels] * (num_layers - 1), out_channels]
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:]):
            layers += [nn.Linear(before, after), nn.SiLU()]
        self.projector = nn.Sequential(*layers[:-1])
        self.centred = centred
        if centred:
            self.register_buffer('mean', torch.zeros(out_channels))
            self.register_buffer('steps', torch.zeros((), dtype=torch.long))

    def forward(
        self, features: Tensor, target: Tensor, weights: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Compare the features of some images.

        Args:
            features: h, (N, in_channels, H, W), or (N, in_channels) if not dense.
            target: r, (N, out_channels, H', W'), of the same canvas; no gradient goes
                into it.
            weights: Of positions of ``features``, (N, 1, H, W), at least 0; ``None``:
                all 1. An image without any does not count.

        Returns:
            ``loss_alignment`` and, to log, the mean cosine ``alignment_cos``.

        Raises:
            ValueError: If the features have another width than the projector takes.
        """
        self.check_width(features)
        with autocast_off(features.device.type):
            features, target = features.float(), target.detach().float()
            if self.centred:
                target = self._centre(target)
            if self.dense:
                cosines, counts = self._at_positions(features, target, weights)
            else:
                h, r = _pooled(features, weights), target.mean((2, 3))
                cosines = F.cosine_similarity(self.projector(h), r, 1)
                counts = torch.ones_like(cosines)
            # Features without a weight stay in the graph: DDP waits for all of them.
            cosine = (cosines * counts).sum() / counts.sum().clamp(min=1)
            loss = self.loss_weight * ((1 - cosines) * counts).sum()
            loss = loss / counts.sum().clamp(min=1)
        return {'loss_alignment': loss, 'alignment_cos': cosine.detach()}

    def _centre(self, target: Tensor) -> Tensor:
        """Take the running mean off r, (N, C, H, W); in training it learns of these."""
        if self.training:
            self.steps += 1
            # The mean of the first batches, each alike, then of about the last hundred.
            share = max(1 / int(self.steps), MEAN_SHARE)
            self.mean.lerp_(target.mean((0, 2, 3)), share)
        return target - self.mean[:, None, None]

    def check_width(self, features: Tensor) -> None:
        """Complain about features that the projector does not take.

        Raises:
            ValueError: If so.
        """
        if self.dense and features.ndim != 4:
            raise ValueError(
                'The dense alignment compares maps (N, C, H, W), not features of shape '
                f'{tuple(features.shape)}; align another layer, or set dense=False.'
            )
        if features.shape[1] != self.in_channels:
            raise ValueError(
                f'The aligned layer gives {features.shape[1]} channels and the '
                f'projector takes {self.in_channels}; set '
                f'in_channels={features.shape[1]}.'
            )

    def _at_positions(
        self, features: Tensor, target: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Mean cosine of each image, and whether it has any position: both (N,)."""
        size = features.shape[-2:]
        target = F.interpolate(target, size, mode='bilinear', antialias=True)
        z = self.projector(features.movedim(1, -1))
        cosines = F.cosine_similarity(z, target.movedim(1, -1), -1)
        if weights is None:
            weights = torch.ones_like(cosines)[:, None]
        totals = weights[:, 0].sum((1, 2))
        means = (cosines * weights[:, 0]).sum((1, 2)) / totals.clamp(min=1e-6)
        return means, (totals > 0).to(means)


def _pooled(features: Tensor, weights: Tensor | None) -> Tensor:
    """Average over positions, (N, C)."""
    if features.ndim == 2:
        return features
    if weights is None:
        return features.flatten(2).mean(2)
    total = weights.sum((2, 3)).clamp(min=1e-6)
    return (features * weights).sum((2, 3)) / total
