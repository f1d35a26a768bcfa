"""Is a gradient the gradient of what it claims? Central differences and identities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdiff.utils.modules import seed_all

from ..errors import GradientBlocked
from ..iterative_attack import IterativeAttack
from ..objectives import objective_name
from ..oracle import Oracle, Question
from ..result import AttackStats
from .findings import ObjectiveProbe
from .parts import FEATURES, Parts
from .tensors import cosine, relative_gap

# Cells of a direction along the longer side, by direction: smooth, as most of what
# networks see is, and fine, for a gradient may be right on smooth ones alone.
CELLS = (8, 40, 8, 40, 8, 40)
# Largest change of a pixel value. A jump of the objective (of targets that are assigned
# by predictions, say) spoils large differences most, rounding of float32 or of pixels
# small ones.
SIZES = (0.1, 0.5, 2.0)
# Changes of a number by less, as a share of it, are rounding of float32.
ROUNDING = 100 * torch.finfo(torch.float32).eps
# A part whose own differences at several sizes agree less jumps.
STEADY = 0.9
# Name of the slopes of the objective itself, beside those of parts.
WHOLE = 'objective'


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
    probe = ObjectiveProbe(objective_name(attack.objective), len(images.frames))
    by_image, parts = [], Parts(oracle.model)
    probe.refines = parts.refines
    # Listening begins first: an oracle puts models back as it found them.
    with parts.listening(), oracle.attacked():
        for i in range(probe.images):
            question = oracle.ask(
                images.take([i]), stats, attack.seed_of, attack.objective, 'fixed'
            )
            try:
                by_image.append(_Slopes(question, parts).measure(probe))
            except GradientBlocked:
                probe.blocked += 1
    probe.passes = stats.queries + stats.grad_evals
    if by_image:
        _correlate(by_image, probe)
    return probe


class _Slopes:
    """Slopes of an objective, and of sums of parts of the model, at one image.

    Args:
        question: The objective of one image.
        parts: Listens to the model.
    """

    def __init__(self, question: Question, parts: Parts) -> None:
        self.question, self.parts = question, parts
        self.seed = question.seed_of(question.group.ids[0], 'probe')
        self.shapes: dict[str, list] = {}
        self.values: dict[str, float] = {}

    def measure(self, probe: ObjectiveProbe) -> dict[str, Tensor]:
        """Slopes by the gradient, then by differences of each size, (1 + S, D).

        Args:
            probe: Takes the gaps.
        """
        (x,) = self.question.group.pixels
        # Room for the differences: a model that clips its input does so at the ends.
        margin = max(SIZES)
        x = x.clamp(margin, 255 - margin)
        directions = random_directions(x, self.seed)
        self.parts.take()  # what preparing the question left
        on, by_gradient = self._differentiate(x, directions)
        off, again = self._ask(x)[WHOLE], self._ask(x)[WHOLE]
        slopes = {name: [slope] for name, slope in by_gradient.items()}
        for size in SIZES:
            for name, ends in self._differ(x, directions, size).items():
                slopes.setdefault(name, []).append(ends)
        probe.grad_gap = max(probe.grad_gap, relative_gap(on, off))
        probe.repeat_gap = max(probe.repeat_gap, relative_gap(again, off))
        whole = {k: v for k, v in slopes.items() if len(v) == 1 + len(SIZES)}
        return {
            name: self._told(name, torch.stack(of_part))
            for name, of_part in whole.items()
            if self.shapes.get(name) != []
        }

    def _told(self, name: str, slopes: Tensor) -> Tensor:
        """Leave out differences of a number that changes by no more than rounding.

        So does an objective on objects that no candidate is on: a large constant.
        """
        changes = 2 * slopes[1:] * torch.tensor(SIZES)[:, None]
        if changes.abs().max() < ROUNDING * abs(self.values[name]):
            slopes[1:] = 0
        return slopes

    def _ask(self, x: Tensor) -> dict[str, Tensor]:
        """Objective and sums at an image, without gradients."""
        seed_all(self.seed)
        loss = self.question.losses([x], 0, 0)
        sums, shapes = self.parts.take()
        for name in sums:
            # Sums of other things cannot be compared: of as many samples as there are.
            if self.shapes.setdefault(name, shapes[name]) != shapes[name]:
                self.shapes[name] = []
        return {**sums, WHOLE: loss.sum()}

    def _differ(
        self, x: Tensor, directions: Sequence[Tensor], size: float
    ) -> dict[str, Tensor]:
        """Central differences of objective and sums, (D,) each."""
        slopes: dict[str, list[Tensor]] = {}
        for direction in directions:
            up, down = self._ask(x + size * direction), self._ask(x - size * direction)
            for name in up.keys() & down.keys():
                slope = (up[name].double() - down[name].double()) / (2 * size)
                slopes.setdefault(name, []).append(slope.cpu())
        return {
            name: torch.stack(along)
            for name, along in slopes.items()
            if len(along) == len(directions)
        }

    def _differentiate(
        self, x: Tensor, directions: Sequence[Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective, and slopes of it and of the sums by gradients, (D,) each.

        Raises:
            GradientBlocked: If the objective does not depend on the image.
        """
        x = x.detach().requires_grad_()
        seed_all(self.seed)
        loss = self.question.with_graph([x], 0, 0)
        if not loss.requires_grad:
            raise GradientBlocked
        sums, self.shapes = self.parts.take()
        slopes = {}
        for name, value in {**sums, WHOLE: loss.sum()}.items():
            self.values[name] = float(value.detach())
            grad = torch.zeros_like(x)
            if value.requires_grad:
                (taken,) = torch.autograd.grad(
                    value, x, retain_graph=True, allow_unused=True
                )
                grad = grad if taken is None else taken
            slope = [(grad * direction).sum() for direction in directions]
            slopes[name] = torch.stack(slope).double().cpu()
        return loss.detach().sum(), slopes


def _correlate(by_image: Sequence[dict[str, Tensor]], probe: ObjectiveProbe) -> None:
    """Sum up slopes of all images, each of equal weight."""
    for name in by_image[0]:
        if any(name not in image for image in by_image):
            continue
        slopes = torch.stack([image[name] for image in by_image], 1)  # (1 + S, N, D)
        # What is the same for all changes, or no number, says nothing.
        told = slopes[1:].any(dim=2).any(dim=0)
        if name == WHOLE:
            probe.constant = int((~told).sum())
        slopes = slopes[:, told]
        if not torch.isfinite(slopes).all() or not slopes.numel():
            continue
        steadiness = best_agreement(slopes[1:])
        if name.startswith(FEATURES):
            # Rounding, of TF32 say, may hide what the smallest change does.
            probe.smoothness[name] = max(steadiness, best_agreement(slopes[2:]))
        if name != WHOLE:
            # Outputs that change places (of queries that were chosen) tell nothing.
            if steadiness >= STEADY:
                probe.parts[name] = best_agreement(slopes)
                if name.startswith(FEATURES):
                    probe.gains[name] = gain(slopes)
            continue
        by_gradient, *measured = pool(slopes)
        for size, differences in zip(SIZES, measured):
            probe.agreement[f'{size:g}'] = cosine(by_gradient, differences)
        probe.best_agreement = best_agreement(slopes)
        probe.steadiness = steadiness


def pool(slopes: Tensor) -> Tensor:
    """Flatten slopes of several images, (K, N, D), each of equal weight, to (K, ND)."""
    size = slopes[1:].norm(dim=2).median(0).values
    return (slopes / size.clamp(min=1e-30)[None, :, None]).flatten(1)


def best_agreement(slopes: Tensor) -> float:
    """Correlation of slopes with differences, at the size that suits each direction.

    Where the objective is smooth, differences of all sizes are the same. Where one of
    them crosses a jump, the others tell the slope.

    Args:
        slopes: Slopes to compare, then differences of each size, (1 + S, N, D).
    """
    return cosine(*_nearest(slopes))


def gain(slopes: Tensor) -> float:
    """How many times larger slopes are than differences, by least squares.

    Args:
        slopes: See :func:`best_agreement`.
    """
    first, measured = _nearest(slopes)
    return float(first @ measured / (measured @ measured).clamp(min=1e-30))


def _nearest(slopes: Tensor) -> tuple[Tensor, Tensor]:
    """Pooled slopes, and in each direction the difference that is nearest."""
    first, *others = pool(slopes)
    measured = torch.stack(others)
    nearest = (measured - first).abs().argmin(0)
    return first, measured.gather(0, nearest[None])[0]


def random_directions(x: Tensor, seed: int) -> list[Tensor]:
    """Random changes of an image, (C, H, W), at most 1 in size."""
    generator = torch.Generator().manual_seed(seed)
    directions = []
    for count in CELLS:
        cells = [max(2, round(count * side / max(x.shape[1:]))) for side in x.shape[1:]]
        coarse = torch.randn((1, len(x), *cells), generator=generator)
        fine = F.interpolate(coarse, x.shape[1:], mode='bilinear', align_corners=False)
        directions.append((fine / fine.abs().max())[0].to(x))
    return directions
