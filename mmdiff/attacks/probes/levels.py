"""Does a gradient reach every feature map? Central differences of each one alone."""

from __future__ import annotations

import torch
from torch import Tensor

from mmdiff.utils.modules import seed_all, training_flags

from ..oracle import ImageGroup, Oracle
from .findings import ModelProbe
from .objective import SIZES, smooth_directions
from .tensors import cosine, flat

DIRECTIONS = 4


def probe_levels(oracle: Oracle, batch: dict, probe: ModelProbe) -> None:
    """Compare the gradient of each feature map with central differences.

    An objective may hardly look at a map on a few images: cut there, its gradient would
    still look right. Of each map one random sum is taken.

    Args:
        oracle: Oracle of the model; one without ``extract_feat`` is not asked.
        batch: A batch of a few images, as the dataloader gives it.
        probe: Takes the correlations.
    """
    if not hasattr(oracle.model, 'extract_feat'):
        return
    images = oracle.gather(batch)
    with oracle.attacked():
        found = [
            _Sums(oracle, images.take([i])).slopes() for i in range(len(images.frames))
        ]
    if len({slopes.shape for slopes in found}) != 1:  # as of features of proposals
        return
    probe.passes += len(found) * (1 + 2 * len(SIZES) * DIRECTIONS)
    slopes = torch.stack(found, 2)  # (1 + S, L, N, D)
    weights = slopes[1].norm(dim=-1, keepdim=True).clamp(min=1e-30)
    for level in (slopes / weights).flatten(2).unbind(1):
        still = not level[1:].any()  # it is the same for all images
        best = max(cosine(level[0], measured) for measured in level[1:])
        probe.levels.append(1.0 if still else best)


class _Sums:
    """A random sum of each feature map of one image.

    Args:
        oracle: Oracle of the model.
        image: The image.
    """

    def __init__(self, oracle: Oracle, image: ImageGroup) -> None:
        self.oracle, self.image = oracle, image

    def slopes(self) -> Tensor:
        """Slopes by the gradient, then by each size: (1 + S, L, D)."""
        (x,) = self.image.pixels
        margin = max(SIZES)
        x = x.clamp(margin, 255 - margin).requires_grad_()
        directions = smooth_directions(x.detach(), 0)[:DIRECTIONS]
        sums = self._ask(x)
        by_gradient = []
        for one in sums:
            grad = torch.zeros_like(x)
            if one.requires_grad:
                (taken,) = torch.autograd.grad(
                    one, x, retain_graph=True, allow_unused=True
                )
                grad = grad if taken is None else taken
            by_gradient.append(torch.stack([(grad * d).sum() for d in directions]))
        x = x.detach()
        slopes = [torch.stack(by_gradient).double().cpu()]
        with torch.no_grad():
            for size in SIZES:
                ends = [
                    (self._ask(x + size * d) - self._ask(x - size * d)) / (2 * size)
                    for d in directions
                ]
                slopes.append(torch.stack(ends, 1).double().cpu())
        return torch.stack(slopes)

    def _ask(self, x: Tensor) -> Tensor:
        """The sums at an image, (L,)."""
        image = self.image
        with training_flags(self.oracle.model, self.oracle.training):
            seed_all(0)
            batch = self.oracle.preprocess([x], image.samples, image.frames)
            features = flat(self.oracle.model.extract_feat(batch['inputs']))
        self.oracle.reset()
        generator, sums = torch.Generator().manual_seed(0), []
        for feature in features:
            signs = torch.randn(feature.shape, generator=generator).double()
            sums.append((feature.double() * signs.to(feature.device)).sum())
        return torch.stack(sums)
