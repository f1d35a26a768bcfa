"""Projected gradient descent on the losses of any mm model."""

import torch
from torch import Tensor, nn

from mmdiff.registry import ATTACKS

from .attack import Attack
from .model_state import training_flags
from .objectives import TERMS, image_losses


@ATTACKS.register_module()
class PGD(Attack):
    """Projected gradient descent (Madry et al. 2018) on a detector or classifier.

    Args:
        eps: Budget in pixel units (8 is 8/255).
        step_size: Step in the same units; ``None`` is ``2.5 * eps / steps``.
        steps: Number of steps.
        norm: ``'linf'`` (step along the sign) or ``'l2'`` (along the unit gradient).
        random_start: Start anywhere in the budget instead of at the image.
        restarts: Keep, per image, the one that ends with the highest objective.
        objective: ``'total'``: all losses; ``'cls'``, ``'reg'``: those of the final
            head (A_cls and A_reg of Zhang and Wang 2019).
        eot: Gradients are averaged over so many passes; above 1 for models that draw
            fresh noise (expectation over transformation, Athalye et al. 2018).
        **kwargs: See :class:`Attack`.

    Raises:
        ValueError: For arguments out of range.

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
        super().__init__(eps, norm, **kwargs)
        if eps is None:
            raise ValueError(
                'PGD needs a budget; give eps in pixel units (8 is 8/255).'
            )
        if objective not in TERMS:
            raise ValueError(
                f'objective={objective!r} is unknown; choose one of {tuple(TERMS)}.'
            )
        for name, value in dict(steps=steps, restarts=restarts, eot=eot).items():
            if value < 1:
                raise ValueError(f'{name}={value} must be at least 1.')
        if step_size is not None and not step_size > 0:
            raise ValueError(f'step_size={step_size} must be above 0, in pixel units.')
        self.step_size = 2.5 * eps / steps if step_size is None else step_size
        self.steps = steps
        self.random_start = random_start
        self.restarts = restarts
        self.objective = objective
        self.eot = eot

    def threat_model(self) -> dict:
        names = 'step_size', 'steps', 'random_start', 'restarts', 'objective', 'eot'
        return {
            **super().threat_model(),
            **{name: getattr(self, name) for name in names},
        }

    def perturb(
        self, model: nn.Module, images: list[Tensor], samples: list, ids: list[str]
    ) -> list[Tensor]:
        best: list[Tensor] = []
        best_loss: Tensor | None = None
        for restart in range(self.restarts):
            adv = [self._start(x, i, restart) for x, i in zip(images, ids)]
            for step in range(self.steps):
                seeds = [self.seed_of(i, restart, step) for i in ids]
                grads, losses = self._gradient(model, adv, samples, seeds)
                total = losses.sum().item()
                self.stats.losses[step] = self.stats.losses.get(step, 0.0) + total
                adv = [
                    self.project(a + self.step_size * self._direction(g), x)
                    for a, g, x in zip(adv, grads, images)
                ]
            if self.restarts == 1:
                return adv
            seeds = [self.seed_of(i, 'final') for i in ids]
            with torch.no_grad():
                loss = self._losses(model, adv, samples, seeds)
            if best_loss is None:
                best, best_loss = adv, loss
            better = loss > best_loss
            best = [a if b else old for a, b, old in zip(adv, better, best)]
            best_loss = torch.maximum(loss, best_loss)
        return best

    def _losses(self, model, images, samples, seeds) -> Tensor:
        """Mean objective over ``eot`` passes, (N,)."""
        total = 0
        with training_flags(model, True):
            for k in range(self.eot):
                batch = self.preprocess(model, images, samples)
                shifted = [seed + k for seed in seeds]
                torch.manual_seed(shifted[0])  # of fresh noise in the backbone
                total = total + image_losses(model, batch, shifted, self.objective)
        return total / self.eot

    def _gradient(self, model, adv, samples, seeds) -> tuple[list[Tensor], Tensor]:
        """Gradient of each image's objective to its pixels, with its checks."""
        adv = [a.detach().requires_grad_() for a in adv]
        losses = self._losses(model, adv, samples, seeds)
        if not losses.requires_grad:
            raise RuntimeError(
                'The loss does not depend on the image: a module between them runs '
                'under no_grad or detaches, and no attack can see through it.'
            )
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
