"""TRADES: the trade-off of accuracy and robustness as one loss."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmdiff.registry import MODELS
from mmdiff.utils.modules import task_of

from .adversarial import AdversarialLoss, check_weight
from .passes import Passes


@MODELS.register_module()
class TRADESLoss(AdversarialLoss):
    """``CE(f(x), y) + beta KL(p(x) || p(x'))`` (Zhang et al. 2019).

    The divergence is a mean over images, and its gradient goes through both
    predictions. Its inner attack ascends the same divergence: take an attack with
    ``objective='kl'``. DM-AT (Wang et al. 2023) is beta 5 with label smoothing 0.1.

    Args:
        beta: Weight of the divergence.
        label_smoothing: Share of the target that all classes get (Szegedy et al. 2016).

    Raises:
        ValueError: For a value out of range; before training, for a detector.

    Example:
        >>> TRADESLoss(beta=5.0, label_smoothing=0.1).sides
        ('clean', 'adversarial')
    """

    def __init__(self, beta: float = 6.0, label_smoothing: float = 0.0) -> None:
        super().__init__()
        check_weight('beta', beta)
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                f'label_smoothing={label_smoothing} must be a share of 0 to below 1.'
            )
        self.beta, self.label_smoothing = beta, label_smoothing

    @property
    def sides(self) -> tuple[str, ...]:
        return ('clean', 'adversarial')

    def check(self, model: nn.Module, attack: Any) -> None:
        if task_of(type(model)) != 'classification':
            raise ValueError(
                'TRADES compares class logits and '
                f'{type(model).__name__} is a detector; use '
                "loss=dict(type='mmdiff.MadryLoss', clean_weight=1.0)."
            )

    def forward(self, passes: Passes) -> dict[str, Tensor | list[Tensor]]:
        # In fp32 whatever the model computed in: differences of logarithms are small.
        clean = passes.logits('clean').float()
        adversarial = passes.logits('adversarial').float()
        labels = passes.labels.to(clean.device)
        losses = self.compare(clean, adversarial, labels)
        hits = {'clean_acc': clean, 'robust_acc': adversarial}
        shares = {
            name: 100 * (logits.argmax(1) == labels).float().mean()
            for name, logits in hits.items()
        }
        return {**losses, **shares}

    def compare(
        self, clean: Tensor, adversarial: Tensor, labels: Tensor
    ) -> dict[str, Tensor | list[Tensor]]:
        """Return both terms.

        Args:
            clean: Logits of clean images, (N, K).
            adversarial: Logits of adversarial images, (N, K).
            labels: True classes, (N,).
        """
        now, before = adversarial.log_softmax(1), clean.log_softmax(1)
        divergence = F.kl_div(now, before, reduction='batchmean', log_target=True)
        fit = F.cross_entropy(clean, labels, label_smoothing=self.label_smoothing)
        return {'loss_clean': fit, 'loss_robust': self.beta * divergence}
