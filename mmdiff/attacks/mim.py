"""Momentum iterative method."""

from torch import Tensor

from mmdiff.registry import ATTACKS

from .gradient_attack import GradientAttack, Trace


@ATTACKS.register_module()
class MIM(GradientAttack):
    """Momentum iterative method (Dong et al. 2018, Algorithm 1): transfers better.

    ``g <- decay * g + grad / |grad|_1``; steps go along its sign, or along ``g`` (l2).

    Args:
        eps: Budget in pixel units (8 is 8/255).
        step_size: Step in the same units; ``None`` is ``eps / steps``.
        steps: Number of steps.
        decay: Of the momentum; 0 is the iterative FGSM.
        random_start, **kwargs: See :class:`GradientAttack`.

    Example:
        >>> MIM(eps=8, steps=10).threat_model()['step_size']
        0.8
    """

    reported = (*GradientAttack.reported, 'decay')

    def __init__(
        self,
        eps: float = 8,
        step_size: float | None = None,
        steps: int = 10,
        decay: float = 1.0,
        random_start: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(eps, steps, random_start, **kwargs)
        if not decay >= 0:
            raise ValueError(f'decay={decay} must not be negative.')
        self.decay = decay
        self._set_step_size(step_size, eps / steps)

    def update(self, trace: Trace, grad: Tensor, loss: float, step: int) -> Tensor:
        grad = grad / grad.abs().sum().clamp(min=1e-12)
        momentum = self.decay * trace.memory.get('momentum', 0) + grad
        trace.memory['momentum'] = momentum
        adv = trace.adv + self.step_size * self._direction(momentum)
        return self.project(adv, trace.clean)
