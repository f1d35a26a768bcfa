"""Auto-PGD: a step size that needs no choice."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmdiff.registry import ATTACKS

from .iterative_attack import GradientAttack, Trace


@dataclass
class APGDTrace(Trace):
    """An image on its way, and what Algorithm 1 remembers of it.

    Args:
        size: The step.
        loss: Objective at the iterate from which the last step was taken.
        rises: Steps since the last checkpoint that raised the objective.
        checkpoint: Number of the step at the last checkpoint.
        at_checkpoint: Step and best objective at the last checkpoint.
        before: The iterate from which the last step was taken.
        best_grad: Gradient at the best iterate.
    """

    size: float = 0.0
    loss: float = -torch.inf
    rises: int = 0
    checkpoint: int = 0
    at_checkpoint: tuple[float, float] = (0.0, -torch.inf)
    before: Tensor | None = None
    best_grad: Tensor | None = None


@ATTACKS.register_module()
@dataclass(eq=False, kw_only=True)
class APGD(GradientAttack[APGDTrace]):
    """Auto-PGD (Croce and Hein 2020, Algorithm 1) on a detector or classifier.

    The step starts at ``2 * eps``. Image by image it is halved at checkpoints where too
    few steps raised the objective (condition 1) or neither step nor best objective has
    changed since the last (condition 2), and the image returns to its best iterate.

    Args:
        rho: Share of steps that must raise the objective.
        alpha: Weight of the new step against the last one's momentum.
        eps, steps, objective, restarts, restart_offset, eot, proposals, source,
            random_start, keep_best, norm, quantize, mask, seed: See
            :class:`GradientAttack`.

    Example:
        >>> APGD(eps=8, steps=100).checkpoints[:4]
        [22, 41, 57, 70]
    """

    steps: int = 50
    rho: float = 0.75
    alpha: float = 0.75
    trace_type: ClassVar[type[Trace]] = APGDTrace

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ('rho', 'alpha'):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(
                    f'{name}={getattr(self, name)} must be above 0 and at most 1.'
                )

    @property
    def step_size(self) -> float:
        """First step, in pixel units."""
        return 2 * self.eps

    @property
    def checkpoints(self) -> list[int]:
        """Numbers of the steps after which the step may be halved."""
        steps, last, percent = [], 0, 22
        while (step := math.ceil(percent * self.steps / 100)) < self.steps:
            steps.append(step)
            last, percent = percent, percent + max(percent - last - 3, 6)
        return steps

    def threat_model(self) -> dict[str, Any]:
        return {**super().threat_model(), 'step_size': self.step_size}

    def update(self, trace: APGDTrace, grad: Tensor, loss: float, step: int) -> Tensor:
        x = trace.adv
        if step == 0:
            trace.size, trace.loss, trace.before = self.step_size, loss, x
            trace.at_checkpoint = self.step_size, loss
        trace.rises += loss > trace.loss
        if trace.best is x:
            trace.best_grad = grad
        if step in self.checkpoints and self._halves(trace, step):
            trace.size /= 2
            x, grad, loss = trace.best, trace.best_grad, trace.best_loss
        goal = x + trace.size * self.budget.direction(grad)
        goal = self.budget.project(goal, trace.clean)
        if step > 0:
            momentum = x - trace.before
            goal = x + self.alpha * (goal - x) + (1 - self.alpha) * momentum
        # The next step's momentum is from x, its rise over the objective there.
        trace.before, trace.loss = x, loss
        return self.budget.project(goal, trace.clean)

    def _halves(self, trace: APGDTrace, step: int) -> bool:
        """Check conditions 1 and 2; begin anew to count from this checkpoint."""
        few_rises = trace.rises < self.rho * (step - trace.checkpoint)
        now = trace.size, trace.best_loss
        unchanged = trace.at_checkpoint == now
        trace.at_checkpoint, trace.checkpoint, trace.rises = now, step, 0
        return few_rises or unchanged
