"""What an attack on a classifier ascends, from the logits of a whole batch at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdiff.registry import OBJECTIVES as REGISTRY

from ..errors import NotApplicable

# Keeps the ratio finite where the largest logits are equal.
TINY = 1e-12


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each image.

    Args:
        logits: (N, K).
        labels: True classes, (N,).

    Returns:
        (N,), in nats.
    """
    return F.cross_entropy(logits, labels, reduction='none')


# The loss that classifiers are trained with, under both names.
OBJECTIVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    'total': cross_entropy,
    'ce': cross_entropy,
}


class ClassificationObjective(ABC):
    """What to ascend, as a function of the logits of a batch.

    A subclass is a dataclass in ``mmdiff.OBJECTIVES``, and configs name it:
    ``objective=dict(type='DLRTargeted', rank=2)``.

    Example:
        >>> import torch
        >>> logits, labels = torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([0])
        >>> LogitMargin()(logits, labels).tolist(), DLR()(logits, labels).tolist()
        ([-2.0], [-0.6666666865348816])
    """

    task: ClassVar[str] = 'classification'
    # Whether the logits of the clean images are needed, which cost one more pass.
    needs_clean: ClassVar[bool] = False
    # Fewest classes for which it is defined.
    min_classes: ClassVar[int] = 2

    @abstractmethod
    def __call__(
        self, logits: Tensor, labels: Tensor, clean: Tensor | None = None
    ) -> Tensor:
        """Return the objective of each image, (N,), differentiable.

        Args:
            logits: (N, K), with gradients.
            labels: True classes, (N,).
            clean: Logits of the clean images, (N, K), if ``needs_clean``.
        """

    def at_restart(self, restart: int) -> ClassificationObjective:
        """Return the objective of one restart: the same, unless overridden."""
        return self

    def check(self, num_classes: int) -> None:
        """Complain about a classifier with too few classes.

        Raises:
            NotApplicable: If it has fewer than ``min_classes``.
        """
        if num_classes < self.min_classes:
            raise NotApplicable(
                f'{type(self).__name__} compares the {self.min_classes} largest logits '
                f"and the model has {num_classes} classes; use objective='cw' or 'ce'."
            )


def highest_other(logits: Tensor, labels: Tensor) -> Tensor:
    """Largest logit of a class that is not the true one, (N,)."""
    true = F.one_hot(labels, logits.shape[1]).bool()
    return logits.masked_fill(true, -torch.inf).amax(1)


def logit_of(logits: Tensor, classes: Tensor) -> Tensor:
    """Logit of one class of each image, (N,)."""
    return logits.gather(1, classes[:, None])[:, 0]


@REGISTRY.register_module()
@dataclass(frozen=True)
class LogitMargin(ClassificationObjective):
    """Margin by which another class leads (Carlini and Wagner 2017): ``cw``.

    Above 0 the image is of a wrong class. It is the loss of Square attack, too
    (Andriushchenko et al. 2020).
    """

    def __call__(
        self, logits: Tensor, labels: Tensor, clean: Tensor | None = None
    ) -> Tensor:
        return highest_other(logits, labels) - logit_of(logits, labels)


@REGISTRY.register_module()
@dataclass(frozen=True)
class DLR(ClassificationObjective):
    """Difference of logits ratio (Croce and Hein 2020, equation 6): ``dlr``.

    The margin over the gap of the largest and the third largest logit: neither a shift
    nor a scale of the logits changes it, so no confidence hides its gradient.
    """

    min_classes: ClassVar[int] = 3

    def __call__(
        self, logits: Tensor, labels: Tensor, clean: Tensor | None = None
    ) -> Tensor:
        first, _, third = logits.topk(3).values.unbind(1)
        margin = highest_other(logits, labels) - logit_of(logits, labels)
        return margin / (first - third + TINY)


@REGISTRY.register_module()
@dataclass(frozen=True)
class DLRTargeted(ClassificationObjective):
    """Targeted DLR (Croce and Hein 2020, equation 7): ``dlr_targeted``.

    Lets one wrong class win. Each further restart aims at the next one: nine restarts
    are the nine targets of AutoAttack's APGD-T.

    Args:
        rank: Which of the other classes is aimed at, by the logits of the clean image:
            1 is the most likely one. After the last comes the first.
    """

    rank: int = 1
    needs_clean: ClassVar[bool] = True
    min_classes: ClassVar[int] = 4

    def __post_init__(self) -> None:
        if not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f'rank={self.rank} must be a number of at least 1.')

    def at_restart(self, restart: int) -> ClassificationObjective:
        return replace(self, rank=self.rank + restart)

    def target(self, clean: Tensor, labels: Tensor) -> Tensor:
        """Return the class that each image is to show, (N,)."""
        true = F.one_hot(labels, clean.shape[1]).bool()
        order = clean.masked_fill(true, -torch.inf).argsort(1, descending=True)
        return order[:, (self.rank - 1) % (clean.shape[1] - 1)]

    def __call__(
        self, logits: Tensor, labels: Tensor, clean: Tensor | None = None
    ) -> Tensor:
        target = self.target(clean, labels)
        first, _, third, fourth = logits.topk(4).values.unbind(1)
        margin = logit_of(logits, target) - logit_of(logits, labels)
        return margin / (first - (third + fourth) / 2 + TINY)


@REGISTRY.register_module()
@dataclass(frozen=True)
class KLDivergence(ClassificationObjective):
    """Divergence from the clean prediction, as in TRADES (Zhang et al. 2019): ``kl``.

    ``KL(p(clean) || p(adversarial))``, in nats, without the label. Its gradient is zero
    at the clean image: attacks need their random start.
    """

    needs_clean: ClassVar[bool] = True

    def __call__(
        self, logits: Tensor, labels: Tensor, clean: Tensor | None = None
    ) -> Tensor:
        now, before = logits.log_softmax(1), clean.log_softmax(1)
        return F.kl_div(now, before, reduction='none', log_target=True).sum(1)
