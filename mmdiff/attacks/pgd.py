"""Projected gradient descent on the objective of any mm model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mmdiff.registry import ATTACKS

from .iterative_attack import GradientAttack, Trace, check_step_size


@ATTACKS.register_module()
@dataclass(eq=False, kw_only=True)
class PGD(GradientAttack[Trace]):
    """Projected gradient descent (Madry et al. 2018) on a detector or classifier.

    On two-stage detectors it ascends on the losses as the model computes them: each
    iterate has its own proposals and samples. Falling steps end with higher losses than
    constant ones (see docs/guide/attack.md). Steps go along the sign of the gradient
    (linf) or along the unit gradient (l2).

    Args:
        step_size: Constant step in pixel units; ``None``: the steps fall linearly from
            ``eps`` to ``eps / steps``.
        eps, steps, objective, restarts, restart_offset, eot, proposals, source,
            random_start, keep_best, norm, quantize, mask, seed: See
            :class:`GradientAttack`.

    Example:
        >>> attack = PGD(eps=8, steps=20, step_size=1.0, objective='cls')
        >>> attack.threat_model()['step_size']
        1.0
    """

    step_size: float | None = None
    proposals: str = 'moving'
    keep_best: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_step_size(self.step_size)

    def update(self, trace: Trace, grad: Tensor, loss: float, step: int) -> Tensor:
        size = self.step_size
        if size is None:
            size = self.eps * (1 - step / self.steps)
        adv = trace.adv + size * self.budget.direction(grad)
        return self.budget.project(adv, trace.clean)
