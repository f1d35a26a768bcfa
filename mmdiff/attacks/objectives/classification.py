"""What an attack on a classifier ascends, from the logits of a whole batch at once."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


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
