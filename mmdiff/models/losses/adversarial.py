"""What adversarial training minimises."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from mmdiff.registry import MODELS

from .passes import Passes


@dataclass
class Perturbed:
    """Images to train on.

    Args:
        inputs: Adversarial images in 0..255, in the container of the clean ones.
        logged: Numbers for the log, by name.
    """

    inputs: Any
    logged: dict[str, float] = field(default_factory=dict)


class AdversarialLoss(nn.Module, ABC):
    """What is minimised on adversarial images, and how they come about.

    Attributes:
        replays: Optimisation steps on each batch.
        sides: Sides of images that a pass with gradients is made on.
    """

    replays: int = 1

    @property
    def sides(self) -> tuple[str, ...]:
        return ('adversarial',)

    def check(self, model: nn.Module, attack: Any) -> None:  # noqa: B027
        """Complain about a model or an attack that the loss has no meaning for.

        Raises:
            ValueError: If it has none.
        """

    def perturb(self, attack: Any, model: nn.Module, batch: dict) -> Perturbed:
        """Attack a batch, and say what it changed in the attack's objective.

        Args:
            attack: One of ``mmdiff.ATTACKS``.
            model: The bare model.
            batch: Raw images and samples with ground truth at the scale of the images.
        """
        result = attack.run_on(model, batch, gt_scale='input')
        logged, images = {}, result.stats.images
        ends = [loss for loss in result.losses if math.isfinite(loss)]
        if 0 in result.stats.losses and ends:
            starts = images * getattr(attack, 'restarts', 1)
            logged['inner_before'] = result.stats.losses[0] / starts
            logged['inner_after'] = sum(ends) / len(ends)
        return Perturbed(result.inputs, logged)

    @abstractmethod
    def forward(self, passes: Passes) -> dict[str, Tensor | list[Tensor]]:
        """Return losses by name, and values to log without ``loss`` in theirs."""


@MODELS.register_module()
class MadryLoss(AdversarialLoss):
    """The model's own losses on adversarial images (PGD-AT, Madry et al. 2018).

    For a detector that is the total of its losses. With ``clean_weight`` clean images
    count as well, in a pass of their own (Zhang and Wang 2019 take halves); their
    losses are named ``clean.*``.

    Args:
        adversarial_weight: Weight of the losses on adversarial images.
        clean_weight: Weight of those on clean images; 0 leaves the pass out.

    Raises:
        ValueError: For a negative weight, or none on adversarial images.

    Example:
        >>> MadryLoss(0.5, clean_weight=0.5).sides
        ('adversarial', 'clean')
    """

    def __init__(
        self, adversarial_weight: float = 1.0, clean_weight: float = 0.0
    ) -> None:
        super().__init__()
        check_weight('clean_weight', clean_weight)
        check_weight('adversarial_weight', adversarial_weight)
        if adversarial_weight == 0:
            raise ValueError(
                'adversarial_weight=0 trains on clean images alone; use the bare model.'
            )
        self.weights = {'adversarial': adversarial_weight, 'clean': clean_weight}

    @property
    def sides(self) -> tuple[str, ...]:
        return tuple(side for side, weight in self.weights.items() if weight)

    def forward(self, passes: Passes) -> dict[str, Tensor | list[Tensor]]:
        losses: dict[str, Tensor | list[Tensor]] = {}
        for side in self.sides:
            prefix = 'clean.' if side == 'clean' else ''
            for name, value in passes.losses(side).items():
                losses[f'{prefix}{name}'] = _scaled(name, value, self.weights[side])
        return losses


def check_weight(name: str, weight: float) -> None:
    """Complain about a weight that is no finite number of at least 0.

    Raises:
        ValueError: If it is none.
    """
    if not math.isfinite(weight) or weight < 0:
        raise ValueError(f'{name}={weight} must be a number of at least 0.')


def _scaled(
    name: str, value: Tensor | list[Tensor], weight: float
) -> Tensor | list[Tensor]:
    """Weigh what is summed as a loss; an accuracy stays what it is."""
    if 'loss' not in name or weight == 1:
        return value
    if isinstance(value, list):
        return [weight * each for each in value]
    return weight * value
