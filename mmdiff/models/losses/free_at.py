"""Adversarial training for free: one gradient for the weights and for the images."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdiff.registry import MODELS

from .adversarial import AdversarialLoss, MadryLoss, Perturbed
from .passes import Passes


@MODELS.register_module()
class FreeATLoss(AdversarialLoss):
    """Several steps on each batch, each of the weights and of the noise at once.

    FreeAT (Shafahi et al. 2019) as Li et al. (2023) train detectors: the backward pass
    of the training step gives the gradient to the images as well, along which the
    noise goes a step for the next replay. It is carried on to the next batch, resized
    to its images, and starts at zero. Of the attack only the budget (and mask) counts.
    An epoch costs ``replays`` epochs: divide their number by it. Learning rates and
    moving averages are stepped once per batch.

    On several devices it needs ``model_wrapper_cfg=dict(
    type='mmdiff.ReplayedDataParallel')``. A resumed training starts with no noise.

    Args:
        replays: Steps on each batch, m in the paper.
        step_size: Step of the noise in pixel units; ``None``: the budget.

    Raises:
        ValueError: For a value out of range, or if no gradient reaches the images.

    Example:
        >>> FreeATLoss(replays=4).replays
        4
    """

    def __init__(self, replays: int = 4, step_size: float | None = None) -> None:
        super().__init__()
        if isinstance(replays, bool) or not isinstance(replays, int) or replays < 1:
            raise ValueError(f'replays={replays!r} must be a number of at least 1.')
        if step_size is not None and not step_size > 0:
            raise ValueError(f'step_size={step_size} must be above 0, in pixel units.')
        self.replays, self.step_size = replays, step_size
        self.model_loss = MadryLoss()
        # By place in the batch: change of the image, and the image that waits for its
        # gradient. No buffers: they are no weights.
        self.noise: list[Tensor] = []
        self.waiting: list[Tensor] = []

    def check(self, model: nn.Module, attack: Any) -> None:
        if attack.eps is None:
            raise ValueError('FreeAT needs a budget; give eps of the attack in pixels.')
        if attack.budget.is_flow:
            raise ValueError(
                f'FreeAT adds noise to pixel values, and {type(attack).__name__} '
                'displaces pixels; take an attack with norm=linf or l2.'
            )

    def perturb(self, attack: Any, model: nn.Module, batch: dict) -> Perturbed:
        """Add the noise as it is now to the images, which wait for a gradient."""
        budget = attack.budget
        self._learn(budget)
        images = attack.gather_from(model, batch, gt_scale='input')
        noise = [self._noise_of(i, x) for i, x in enumerate(images.pixels)]
        self.noise[: len(noise)] = noise
        starts = [
            budget.project(x + change, x) for x, change in zip(images.pixels, noise)
        ]
        if torch.is_grad_enabled():
            starts = [start.detach().requires_grad_() for start in starts]
            self.waiting = starts
        pasted = [frame.paste(x) for frame, x in zip(images.frames, starts)]
        inputs = batch['inputs']
        stacked = isinstance(inputs, Tensor)
        size = torch.stack([change.abs().mean() for change in noise]).mean()
        return Perturbed(
            torch.stack(pasted) if stacked else type(inputs)(pasted),
            {'carried_noise': size.item()},
        )

    def forward(self, passes: Passes) -> dict[str, Tensor | list[Tensor]]:
        return self.model_loss(passes)

    def _noise_of(self, place: int, image: Tensor) -> Tensor:
        """Noise that is carried to an image, in its size."""
        if place >= len(self.noise):
            return torch.zeros_like(image)
        noise = self.noise[place].to(image)
        if noise.shape == image.shape:
            return noise
        return F.interpolate(noise[None], image.shape[-2:])[0]

    def _learn(self, budget: Any) -> None:
        """Let the noise go along the gradients that the last step left.

        Raises:
            ValueError: If there are none.
        """
        waiting, self.waiting = self.waiting, []
        grads = [image.grad for image in waiting if image.grad is not None]
        if waiting and len(grads) < len(waiting):
            raise ValueError(
                'The last step left no gradient at the images, so FreeAT has nothing '
                'to follow: a module in front of the losses detaches, or no backward '
                'pass was made.'
            )
        size = budget.eps if self.step_size is None else self.step_size
        for place, grad in enumerate(grads):
            # Mixed precision scales gradients, which no direction depends on.
            finite = torch.where(torch.isfinite(grad), grad, 0)
            change = self.noise[place].to(grad) + size * budget.direction(finite)
            self.noise[place] = budget.shrink(change)
