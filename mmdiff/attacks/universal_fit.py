"""Fit one perturbation on many images, batch by batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from .oracle import ImageGroup, Oracle
from .perturbation import Perturbation, order_of
from .pgd import PGD
from .result import AttackStats


@dataclass
class UniversalFit:
    """Gradient steps on the mean objective of batches (Shafahi et al. 2020, UAP-SGD).

    One step of each batch: along the sign of the mean gradient (linf) or along the unit
    gradient (l2), and back into the ball. The canvas grows to the largest height and
    width of the images, so that none is larger than it.

    The gradient is that at the images as they are tested, clipped to 0..255, and is
    passed through the clipping: a value at its end can come back.

    Args:
        attack: Its objective, budget, mask, passes (``eot``), seed and ``step_size``
            are those of the fit; without one, steps fall linearly from ``eps / 4`` to 0
            at the end of all ``steps``.
        oracle: Oracle of the model.
        perturbation: Where to go on from; ``None``: from no change.
        stats: Account of the work.
    """

    attack: PGD
    oracle: Oracle
    perturbation: Perturbation | None = None
    stats: AttackStats = field(default_factory=AttackStats)

    def step(self, batch: dict, number: int) -> float | None:
        """Take one step; return the mean objective before it.

        Args:
            batch: Inputs and data samples, as the dataloader gives them.
            number: Number of the step, from 0.

        Returns:
            ``None`` if the mask has no pixel on any of the images: no step is taken.

        Raises:
            GradientBlocked: If no gradient reaches the images.
            ValueError: If images have no ground truth, or other numbers of channels.
        """
        images = self.attack.gather(self.oracle, batch)
        open_ones = [i for i, f in enumerate(images.frames) if f.mask_share]
        self.stats.record_masks(images.frames)
        if not open_ones:
            return None
        now = self._grown(images)
        mean, total = torch.zeros_like(now.values), 0.0
        with self.oracle.attacked():
            for chosen in self.oracle.split(images, open_ones):
                grads, losses = self._ask(images.take(chosen), now, number)
                total += losses.sum().item()
                for grad in grads:
                    height, width = grad.shape[-2:]
                    mean[:, :height, :width] += grad / len(open_ones)
        budget, size = self.attack.budget, self.attack.step_size
        if size is None:
            size = self.attack.eps / 4 * (1 - number / self.attack.steps)
        now.values = budget.shrink(now.values + size * budget.direction(mean))
        return total / len(open_ones)

    def _ask(
        self, group: ImageGroup, now: Perturbation, number: int
    ) -> tuple[list[Tensor], Tensor]:
        """Gradients and objectives of images with the perturbation on them."""
        attack = self.attack
        question = self.oracle.ask(
            group,
            self.stats,
            attack.seed_of,
            attack.objective,
            attack.proposals,
            attack.eot,
        )
        pixels = [
            attack.budget.project(frame.masked(x + now.on(x)), x)
            for x, frame in zip(group.pixels, group.frames)
        ]
        return question.gradients(pixels, 0, number, question.samples_anew)

    def _grown(self, images: ImageGroup) -> Perturbation:
        """The perturbation on a canvas that holds these images."""
        shapes = [tuple(x.shape) for x in images.pixels]
        channels, *_ = shapes[0]
        if self.perturbation is None:
            none = torch.zeros(channels, 1, 1, device=self.oracle.device)
            budget = self.attack.budget
            self.perturbation = Perturbation(none, budget, order=order_of(channels))
        now = self.perturbation
        kinds = {len(now.values), *(shape[0] for shape in shapes)}
        if len(kinds) > 1:
            raise ValueError(
                f'Images have {" and ".join(map(str, sorted(kinds)))} channels; fit on '
                'images of one number of channels.'
            )
        height, width = (max(shape[k] for shape in shapes) for k in (1, 2))
        down = max(0, height - now.values.shape[1])
        across = max(0, width - now.values.shape[2])
        now.values = F.pad(now.values, (0, across, 0, down)).to(self.oracle.device)
        return now
