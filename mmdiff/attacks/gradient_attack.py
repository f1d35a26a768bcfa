"""Iterative attacks along the gradient of an objective."""

from abc import abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .objective_attack import ObjectiveAttack


class GradientBlocked(RuntimeError):
    """No gradient reaches the image: the attack's failure would say nothing."""

    def __init__(self) -> None:
        super().__init__(
            'The loss does not depend on the image: a module between them runs '
            'under no_grad or detaches, and no attack can see through it.'
        )


@dataclass
class Trace:
    """One image on its way: the iterate, the best so far, and what a subclass keeps."""

    clean: Tensor
    adv: Tensor
    best: Tensor
    best_loss: float = -torch.inf
    memory: dict = field(default_factory=dict)

    def see(self, loss: float) -> None:
        if loss > self.best_loss:
            self.best, self.best_loss = self.adv, loss


class GradientAttack(ObjectiveAttack):
    """Follow gradients; a subclass says where a step leads (:meth:`update`).

    Args:
        random_start: Start anywhere in the budget instead of at the image.
        keep_best: Return, of all iterates of an image, the one with the highest
            objective instead of the last one. ``None``: unless a detector's proposals
            move. Then the objectives of two iterates are on other proposals and
            samples, and the highest is often only luck.
        **kwargs: See :class:`ObjectiveAttack`.

    Raises:
        ValueError: For arguments out of range.
        GradientBlocked: On calling, if the loss does not depend on the image.
    """

    reported = (*ObjectiveAttack.reported, 'step_size', 'random_start', 'keep_best')
    # Whether heads sample anew at each step (where proposals move): gradients then
    # serve no one sample, but objectives of two steps differ by chance as well.
    resample = False

    def __init__(
        self,
        eps: float = 8,
        steps: int = 10,
        random_start: bool = True,
        keep_best: bool | None = True,
        **kwargs,
    ) -> None:
        super().__init__(eps, steps, **kwargs)
        self.random_start = random_start
        self.keep_best = keep_best

    @abstractmethod
    def update(self, trace: Trace, grad: Tensor, loss: float, step: int) -> Tensor:
        """The next iterate, in the budget; objective and gradient: at ``trace.adv``."""

    def _set_step_size(self, step_size: float | None, default: float | None) -> None:
        if step_size is not None and not step_size > 0:
            raise ValueError(f'step_size={step_size} must be above 0, in pixel units.')
        self.step_size = default if step_size is None else step_size

    def search(self, model, images, samples, ids, restart):
        traces = []
        for x, image_id in zip(images, ids):
            start = self._start(x, image_id, restart)
            traces.append(Trace(x, start, start))
        fixed, keep_best = self.proposals == 'fixed', self.keep_best
        if keep_best is None:
            keep_best = fixed or getattr(model, 'roi_head', None) is None
        same = fixed or (keep_best and not self.resample)
        for step in range(self.steps):
            noise_seed = self.seed_of(ids[0], restart, step)
            what = ('final',) if same else (restart, step)
            seeds = [self.seed_of(i, *what) for i in ids]
            adv = [trace.adv for trace in traces]
            grads, losses = self._gradient(model, adv, samples, seeds, noise_seed)
            self._record(step, losses)
            for trace, grad, loss in zip(traces, grads, losses.tolist()):
                trace.see(loss)
                trace.adv = self.update(trace, grad, loss, step)
        adv = [trace.adv for trace in traces]
        losses = self._query(model, adv, samples, ids, restart, self.steps)
        self._record(self.steps, losses)
        if not keep_best:
            return adv, losses.tolist()
        for trace, loss in zip(traces, losses.tolist()):
            trace.see(loss)
        return [trace.best for trace in traces], [trace.best_loss for trace in traces]

    def _gradient(self, model, adv, samples, seeds, noise_seed=None):
        """Gradient of each image's objective to its pixels, with its checks."""
        adv = [a.detach().requires_grad_() for a in adv]
        losses = self._losses(model, adv, samples, seeds, noise_seed)
        if not losses.requires_grad:
            raise GradientBlocked
        grads = torch.autograd.grad(losses.sum(), adv, allow_unused=True)
        checked = []
        for a, grad in zip(adv, grads):
            grad = torch.zeros_like(a) if grad is None else grad
            finite = torch.isfinite(grad)
            self.stats.grad_evals += self.eot
            self.stats.nonfinite_grads += int(not finite.all())
            self.stats.zero_grads += int(not grad.any())
            checked.append(torch.where(finite, grad, 0))
        return checked, losses.detach()

    def _direction(self, grad: Tensor) -> Tensor:
        if self.norm == 'linf':
            return grad.sign()
        return grad / grad.norm().clamp(min=1e-12)

    def _start(self, x: Tensor, image_id: str, restart: int) -> Tensor:
        if not self.random_start:
            return x.clone()
        generator = torch.Generator().manual_seed(self.seed_of(image_id, restart))
        if self.norm == 'linf':
            noise = torch.rand(x.shape, generator=generator) * 2 - 1
        else:  # uniform in the ball
            noise = torch.randn(x.shape, generator=generator)
            radius = torch.rand((), generator=generator) ** (1 / x.numel())
            noise = noise * (radius / noise.norm())
        return self.project(x + self.eps * noise.to(x), x)
