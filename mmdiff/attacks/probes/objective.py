"""Is a gradient the gradient of what it claims? Central differences and identities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdiff.utils.modules import seed_all

from ..errors import GradientBlocked
from ..iterative_attack import IterativeAttack
from ..oracle import Oracle, Question
from ..result import AttackStats
from .findings import ObjectiveProbe
from .tensors import cosine, relative_gap

DIRECTIONS = 6
# Largest change of a pixel value. A kink of the objective spoils large differences,
# rounding of float32 or of pixels small ones: the better of both counts.
SIZES = (0.5, 2.0)
# Cells of a direction along the longer side: smooth, as what networks see is.
CELLS = 8


def probe_objective(
    oracle: Oracle, batch: dict, attack: IterativeAttack
) -> ObjectiveProbe:
    """Compare the gradient of an attack's objective with central differences.

    Proposals are fixed and all that the model draws is seeded, as in
    :class:`~mmdiff.attacks.oracle.Question`: both are of one function.

    Args:
        oracle: Oracle of the model.
        batch: A batch of a few images, as the dataloader gives it.
        attack: Whose objective is asked, with its seeds.
    """
    images, stats = oracle.gather(batch), AttackStats()
    probe = ObjectiveProbe(attack.objective, len(images.frames))
    found = []
    with oracle.attacked():
        for i in range(probe.images):
            question = oracle.ask(
                images.take([i]), stats, attack.seed_of, attack.objective, 'fixed'
            )
            try:
                found.append(_probe_image(question, probe))
            except GradientBlocked:
                probe.blocked += 1
    probe.passes = stats.queries + stats.grad_evals
    if found:
        _correlate(found, probe)
    return probe


def _probe_image(question: Question, probe: ObjectiveProbe) -> Tensor:
    """Slopes along random directions: by the gradient, then by each size, (1 + S, D)."""
    (x,) = question.group.pixels
    # Room for the differences: a model that clips its input does so at the ends.
    margin = max(SIZES)
    x = x.clamp(margin, 255 - margin)
    off, again = _ask(question, x), _ask(question, x)
    seed_all(question.seed_of(question.group.ids[0], 'probe'))
    (grad,), on = question.gradients([x], 0, 0)
    probe.grad_gap = max(probe.grad_gap, relative_gap(on, off))
    probe.repeat_gap = max(probe.repeat_gap, relative_gap(again, off))
    directions = smooth_directions(x, question.seed_of(question.group.ids[0], 'probe'))
    slopes = [torch.stack([(grad * d).sum() for d in directions])]
    for size in SIZES:
        ends = [
            (_ask(question, x + size * d) - _ask(question, x - size * d)) / (2 * size)
            for d in directions
        ]
        slopes.append(torch.cat(ends))
    return torch.stack(slopes).double().cpu()


def _ask(question: Question, x: Tensor) -> Tensor:
    seed_all(question.seed_of(question.group.ids[0], 'probe'))
    return question.losses([x], 0, 0)


def _correlate(found: Sequence[Tensor], probe: ObjectiveProbe) -> None:
    """Sum up slopes of all images, each of equal weight."""
    slopes = torch.stack(found)  # (N, 1 + S, D)
    weights = slopes[:, 1].norm(dim=1).clamp(min=1e-30)[:, None, None]
    pooled = (slopes / weights).transpose(0, 1).flatten(1)
    for size, measured in zip(SIZES, pooled[1:]):
        probe.agreement[f'{size:g}'] = cosine(pooled[0], measured)
    probe.steadiness = cosine(pooled[1], pooled[2])


def smooth_directions(x: Tensor, seed: int) -> list[Tensor]:
    """Random changes of an image, (C, H, W), without fine detail, at most 1 in size."""
    generator = torch.Generator().manual_seed(seed)
    cells = [max(2, round(CELLS * side / max(x.shape[1:]))) for side in x.shape[1:]]
    coarse = torch.randn((DIRECTIONS, len(x), *cells), generator=generator)
    fine = F.interpolate(coarse, x.shape[1:], mode='bilinear', align_corners=False)
    fine = fine / fine.flatten(1).abs().amax(1)[:, None, None, None]
    return list(fine.to(x))
