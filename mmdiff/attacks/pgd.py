"""Projected gradient descent on the losses of any mm model."""

from torch import Tensor

from mmdiff.registry import ATTACKS

from .gradient_attack import GradientAttack, Trace


@ATTACKS.register_module()
class PGD(GradientAttack):
    """Projected gradient descent (Madry et al. 2018) on a detector or classifier.

    On two-stage detectors it ascends on the losses as the model computes them: each
    iterate has its own proposals and samples. Falling steps end with higher losses than
    constant ones (see docs/evaluation.md).

    Args:
        eps: Budget in pixel units (8 is 8/255).
        step_size: Constant step in the same units; ``None``: the steps fall linearly
            from ``eps`` to ``eps / steps``.
        steps: Number of steps.
        norm: ``'linf'`` (step along the sign) or ``'l2'`` (along the unit gradient).
        random_start, restarts, objective, eot, proposals, keep_best, **kwargs: See
            :class:`GradientAttack`.

    Example:
        >>> attack = PGD(eps=8, steps=20, step_size=1.0, objective='cls')
        >>> attack.threat_model()['step_size']
        1.0
    """

    resample = True

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
        proposals: str = 'moving',
        keep_best: bool | None = None,
        **kwargs,
    ) -> None:
        kwargs.update(norm=norm, restarts=restarts, objective=objective, eot=eot)
        kwargs.update(proposals=proposals, keep_best=keep_best)
        super().__init__(eps, steps, random_start, **kwargs)
        self._set_step_size(step_size, None)

    def update(self, trace: Trace, grad: Tensor, loss: float, step: int) -> Tensor:
        size = self.step_size
        if size is None:
            size = self.eps * (1 - step / self.steps)
        return self.project(trace.adv + size * self._direction(grad), trace.clean)
