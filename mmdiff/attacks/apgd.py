"""Auto-PGD: a step size that needs no choice."""

import math

from torch import Tensor

from mmdiff.registry import ATTACKS

from .gradient_attack import GradientAttack, Trace


@ATTACKS.register_module()
class APGD(GradientAttack):
    """Auto-PGD (Croce and Hein 2020, Algorithm 1) on a detector or classifier.

    The step starts at ``2 * eps``. Image by image it is halved at checkpoints where too
    few steps raised the objective (condition 1) or neither step nor best objective has
    changed since the last (condition 2), and the image returns to its best iterate.

    Args:
        eps: Budget in pixel units (8 is 8/255).
        steps: Number of steps.
        rho: Share of steps that must raise the objective.
        alpha: Weight of the new step against the last one's momentum.
        **kwargs: See :class:`GradientAttack`.

    Example:
        >>> APGD(eps=8, steps=100).checkpoints[:4]
        [22, 41, 57, 70]
    """

    reported = (*GradientAttack.reported, 'rho', 'alpha')

    def __init__(
        self,
        eps: float = 8,
        steps: int = 10,
        rho: float = 0.75,
        alpha: float = 0.75,
        **kwargs,
    ) -> None:
        super().__init__(eps, steps, **kwargs)
        for name, value in dict(rho=rho, alpha=alpha).items():
            if not 0 < value <= 1:
                raise ValueError(f'{name}={value} must be above 0 and at most 1.')
        self.step_size = 2 * eps
        self.rho = rho
        self.alpha = alpha
        self.checkpoints: list[int] = []
        last, p = 0, 22  # percent
        while (step := math.ceil(p * steps / 100)) < steps:
            self.checkpoints.append(step)
            last, p = p, p + max(p - last - 3, 6)

    def update(self, trace: Trace, grad: Tensor, loss: float, step: int) -> Tensor:
        x, m = trace.adv, trace.memory
        if step == 0:
            m.update(size=self.step_size, loss=loss, rises=0, mark=0, before=x)
            m.update(marked=(self.step_size, loss))
        m['rises'] += loss > m['loss']
        if trace.best is x:
            m['best_grad'] = grad
        if step in self.checkpoints:
            few = m['rises'] < self.rho * (step - m['mark'])
            stuck = m['marked'] == (m['size'], trace.best_loss)
            m.update(marked=(m['size'], trace.best_loss), mark=step, rises=0)
            if few or stuck:
                m['size'] /= 2
                x, grad, loss = trace.best, m['best_grad'], trace.best_loss
        goal = self.project(x + m['size'] * self._direction(grad), trace.clean)
        if step > 0:
            goal = x + self.alpha * (goal - x) + (1 - self.alpha) * (x - m['before'])
        # The next step's momentum is from x, its rise over the objective there.
        m.update(before=x, loss=loss)
        return self.project(goal, trace.clean)
