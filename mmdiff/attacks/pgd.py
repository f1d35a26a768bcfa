"""Projected gradient descent on the losses of any mm model."""

from torch import Tensor

from mmdiff.registry import ATTACKS

from .gradient_attack import GradientAttack, Trace


@ATTACKS.register_module()
class PGD(GradientAttack):
    """Projected gradient descent (Madry et al. 2018) on a detector or classifier.

    Args:
        eps: Budget in pixel units (8 is 8/255).
        step_size: Step in the same units; ``None`` is ``2.5 * eps / steps``.
        steps: Number of steps.
        norm: ``'linf'`` (step along the sign) or ``'l2'`` (along the unit gradient).
        random_start, restarts, objective, eot, **kwargs: See :class:`GradientAttack`.

    Example:
        >>> attack = PGD(eps=8, steps=20, objective='cls')
        >>> attack.threat_model()['step_size']
        1.0
    """

    def __init__(
        self,
        eps: float = 8,
        step_size: float | None = None,
        steps: int = 10,
        norm: str = 'linf',
        random_start: bool = True,
        restarts: int = 1,
        objective: str = 'total',
        eot: int = 1,
        **kwargs,
    ) -> None:
        kwargs.update(norm=norm, restarts=restarts, objective=objective, eot=eot)
        super().__init__(eps, steps, random_start, **kwargs)
        self._set_step_size(step_size, 2.5 * eps / steps)

    def update(self, trace: Trace, grad: Tensor, loss: float, step: int) -> Tensor:
        adv = trace.adv + self.step_size * self._direction(grad)
        return self.project(adv, trace.clean)
