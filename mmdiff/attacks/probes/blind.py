"""Are there pixels that matter, and that no gradient reaches?"""

from __future__ import annotations

import torch
from torch import Tensor

from ..iterative_attack import IterativeAttack
from ..oracle import ImageGroup, Oracle
from .findings import ModelProbe
from .flags import ask_features


def probe_blind_pixels(
    oracle: Oracle, batch: dict, attack: IterativeAttack, probe: ModelProbe
) -> None:
    """Move the pixel values on which features have no gradient, by the whole budget.

    Models that clip or round may be flat around an image and not a step further: a
    gradient of zero says nothing there, and small differences agree with it.

    Args:
        oracle: Oracle of the model; one without ``extract_feat`` is not asked.
        batch: A batch of a few images, as the dataloader gives it.
        attack: Whose budget is meant.
        probe: Takes the findings.
    """
    if not hasattr(oracle.model, 'extract_feat'):
        return
    images, changes = oracle.gather(batch), []
    count = len(images.frames)
    with oracle.attacked():
        for i, image_id in enumerate(images.ids):
            image = images.take([i])
            (x,) = image.pixels
            # A model that clips its input at the ends of the range is not blind.
            x = x.clamp(1, 254)
            grad = _gradient(oracle, image, x)
            probe.passes += 1
            if grad is None or grad.all():
                continue
            blind = grad == 0
            probe.blind_share += blind.double().mean().item() / count
            generator = torch.Generator().manual_seed(attack.seed_of(image_id, 'blind'))
            noise = attack.budget.sample_edge(x, generator)
            ends = [attack.budget.project(x + n, x) for n in (noise * blind, noise)]
            still, some, every = (_features(oracle, image, end) for end in (x, *ends))
            moved = [(end - still).norm().item() for end in (some, every)]
            changes.append(moved[0] / max(moved[1], 1e-30))
            probe.passes += 3
    probe.blind_change = max([probe.blind_change, *changes])


def _gradient(oracle: Oracle, image: ImageGroup, x: Tensor) -> Tensor | None:
    """Gradient of a random sum of all features; ``None`` if it is blocked.

    Attacks say themselves where they meet no gradient at all.
    """
    x = x.detach().requires_grad_()
    features = _features(oracle, image, x)
    if not features.requires_grad:
        return None
    generator = torch.Generator().manual_seed(0)
    signs = torch.randn(len(features), generator=generator).to(features)
    with torch.enable_grad():
        (grad,) = torch.autograd.grad((features * signs).sum(), x)
    return grad


def _features(oracle: Oracle, image: ImageGroup, x: Tensor) -> Tensor:
    """All features in one vector, as an attack asks for them."""
    features, _ = ask_features(oracle, image, x, oracle.training)
    return torch.cat([feature.flatten().float() for feature in features])
