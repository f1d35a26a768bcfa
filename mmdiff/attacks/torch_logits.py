"""A classifier as torchattacks wants it: images in 0..1 to logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .errors import GradientBlocked
from .oracle import Oracle
from .result import AttackStats


class Logits(nn.Module):
    """Preprocessor and model of an oracle, as a function of images in 0..1.

    What passes through is counted. The model is no submodule of this one: torchattacks
    sets the flags of whatever it attacks.

    Args:
        oracle: Oracle of a classifier.
        stats: Account of gradients and queries.
        flat_is_zero: Whether a gradient of zero counts as one: no sign of a mistake
            where a loss is flat by design.

    Attributes:
        passes: Images that were asked about, one for each pass.
    """

    def __init__(
        self, oracle: Oracle, stats: AttackStats, flat_is_zero: bool = True
    ) -> None:
        super().__init__()
        self.oracle: Any = oracle  # of a classifier: it has logits
        self.stats = stats
        self.flat_is_zero = flat_is_zero
        self.passes = 0
        # torchattacks reads the device off the first parameter.
        place = torch.empty(0, device=oracle.device)
        self.place = nn.Parameter(place, requires_grad=False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, (N, K), of images of shape (N, C, H, W)."""
        pixels = images * 255
        self.passes += len(pixels)
        if pixels.requires_grad:
            pixels.register_hook(self._count)
        else:
            self.stats.queries += len(pixels)
        batch = self.oracle.preprocessor({'inputs': list(pixels)}, training=False)
        logits = self.oracle.logits(batch)
        if pixels.requires_grad and not logits.requires_grad:
            raise GradientBlocked
        return logits

    def _count(self, grad: Tensor) -> None:
        """Count the gradients of a pass, one for each image."""
        images = grad.flatten(1)
        self.stats.grad_evals += len(images)
        self.stats.nonfinite_grads += int((~images.isfinite()).any(1).sum())
        if self.flat_is_zero:
            self.stats.zero_grads += int((images == 0).all(1).sum())
