"""One objective of some images, to be asked at any iterate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmdiff.utils.modules import seed_all, training_flags

from ..errors import GradientBlocked
from ..result import AttackStats
from .frame import ImageGroup
from .penalty import Penalty

if TYPE_CHECKING:
    from .base import Oracle


@dataclass
class Question:
    """One objective of some images, ready to be asked at any iterate.

    Args:
        oracle: The oracle of the model.
        group: The images, with what the objective is measured against.
        objective: What is ascended (:meth:`Oracle.goal_of`).
        proposals: ``'fixed'`` or ``'moving'``; see :class:`IterativeAttack`.
        eot: Number of passes that are averaged (expectation over transformation).
        seed_of: See :meth:`Oracle.ask`.
        stats: Account in which gradients and queries are counted.
        penalty: What is taken off the objective; ``None``: nothing.
    """

    oracle: Oracle
    group: ImageGroup
    objective: Any
    proposals: str
    eot: int
    seed_of: Callable[..., int]
    stats: AttackStats
    penalty: Penalty | None = None

    @property
    def proposals_move(self) -> bool:
        """See :attr:`Oracle.proposals_move`."""
        return self.oracle.proposals_move

    @property
    def samples_anew(self) -> bool:
        """Whether heads may sample other boxes at each pass, as they do in training."""
        return self.oracle.trains_for(self.objective)

    def gradients(
        self, pixels: Sequence[Tensor], restart: int, step: int, resample: bool = False
    ) -> tuple[list[Tensor], Tensor]:
        """Gradients of the images' objectives to their pixels, and the objectives.

        Args:
            pixels: Iterates, (C, H, W) each.
            restart: Number of the restart; with ``step`` it seeds what the model itself
                draws.
            step: Number of the step.
            resample: Let heads sample anew at this step. Otherwise they sample as at
                every other step, so that objectives can be compared.

        Returns:
            One gradient per image, non-finite values replaced by 0, and (N,).

        Raises:
            GradientBlocked: If the objective does not depend on the images.
        """
        pixels = [x.detach().requires_grad_() for x in pixels]
        choice = (restart, step) if resample else ('final',)
        losses = self._losses(pixels, choice, restart, step)
        if not losses.requires_grad:
            raise GradientBlocked
        grads = torch.autograd.grad(losses.sum(), pixels, allow_unused=True)
        checked = [self._check(x, grad) for x, grad in zip(pixels, grads)]
        return checked, losses.detach()

    def with_graph(self, pixels: Sequence[Tensor], restart: int, step: int) -> Tensor:
        """Objectives with the graph behind them, (N,), sampled as :meth:`losses`."""
        self.stats.grad_evals += self.eot * len(pixels)
        return self._losses(pixels, ('final',), restart, step)

    def losses(self, pixels: Sequence[Tensor], restart: int, step: int) -> Tensor:
        """Objectives without gradients, (N,), sampled as steps without resampling."""
        self.stats.queries += self.eot * len(pixels)
        with torch.no_grad():
            return self._losses(pixels, ('final',), restart, step)

    def _losses(
        self, pixels: Sequence[Tensor], choice: tuple, restart: int, step: int
    ) -> Tensor:
        """Mean objective over ``eot`` passes, (N,), less the penalty.

        Raises:
            GradientBlocked: If the objective does not depend on the images for
                autograd, and only the penalty would be followed.
        """
        group, total = self.group, 0
        goal = self.objective
        if not isinstance(goal, str):
            goal = goal.at_restart(restart)
        seeds = [self.seed_of(i, *choice) for i in group.ids]
        noise_seed = self.seed_of(group.ids[0], restart, step)
        with training_flags(self.oracle.model, self.samples_anew):
            for k in range(self.eot):
                seed_all(noise_seed + k)  # of fresh noise in a shield or the backbone
                batch = self.oracle.preprocess(pixels, group.samples, group.frames)
                shifted = [seed + k for seed in seeds]
                total = total + self.oracle.image_losses(batch, shifted, goal)
        if self.penalty is None:
            return total / self.eot
        if torch.is_grad_enabled() and not total.requires_grad:
            raise GradientBlocked
        return total / self.eot - self.penalty(group, pixels)

    def _check(self, x: Tensor, grad: Tensor | None) -> Tensor:
        """Count a gradient; replace what is not a number."""
        grad = torch.zeros_like(x) if grad is None else grad
        finite = torch.isfinite(grad)
        self.stats.grad_evals += self.eot
        self.stats.nonfinite_grads += int(not finite.all())
        self.stats.zero_grads += int(not grad.any())
        return torch.where(finite, grad, 0)
