"""Momentum iterative method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from mmdiff.registry import ATTACKS

from .iterative_attack import GradientAttack, Trace, check_step_size


@dataclass
class MomentumTrace(Trace):
    """An image on its way, and the momentum of its gradients."""

    momentum: Tensor | float = 0.0


@ATTACKS.register_module()
@dataclass(eq=False, kw_only=True)
class MIM(GradientAttack[MomentumTrace]):
    """Momentum iterative method (Dong et al. 2018, Algorithm 1): transfers better.

    ``g <- decay * g + grad / |grad|_1``; steps go along its sign, or along ``g`` (l2).

    Args:
        step_size: Step in pixel units; ``None`` becomes ``eps / steps``.
        decay: Factor of the momentum; 0 is the iterative FGSM.
        eps, steps, objective, restarts, restart_offset, eot, proposals, source,
            random_start, keep_best, norm, quantize, mask, seed: See
            :class:`GradientAttack`.

    Example:
        >>> MIM(eps=8, steps=10).threat_model()['step_size']
        0.8
    """

    step_size: float | None = None
    decay: float = 1.0
    random_start: bool = False
    trace_type: ClassVar[type[Trace]] = MomentumTrace

    def __post_init__(self) -> None:
        super().__post_init__()
        check_step_size(self.step_size)
        if not self.decay >= 0:
            raise ValueError(f'decay={self.decay} must not be negative.')
        if self.step_size is None:
            self.step_size = self.eps / self.steps

    def update(
        self, trace: MomentumTrace, grad: Tensor, loss: float, step: int
    ) -> Tensor:
        grad = grad / grad.abs().sum().clamp(min=1e-12)
        trace.momentum = self.decay * trace.momentum + grad
        adv = trace.adv + self.step_size * self.budget.direction(trace.momentum)
        return self.budget.project(adv, trace.clean)
