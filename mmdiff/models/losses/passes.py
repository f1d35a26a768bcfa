"""The passes over a batch whose gradients train a model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# Called with the side of a pass, 'clean' or 'adversarial': what runs meanwhile is it.
Observer = Callable[[str], AbstractContextManager]


def unobserved(side: str) -> AbstractContextManager:
    """Observe nothing."""
    return nullcontext()


def preprocess(model: nn.Module, inputs: Any, samples: list) -> dict:
    """Run a model's own preprocessor as for training, on copied samples.

    Args:
        model: A bare model.
        inputs: Images in 0..255, (N, C, H, W) or a list of (C, H, W).
        samples: Their data samples; losses write into them.
    """
    copies = [sample.clone() for sample in samples]
    batch = {'inputs': inputs, 'data_samples': copies}
    return model.data_preprocessor(batch, training=True)


@dataclass
class Passes:
    """What a loss may ask of a model about a batch, each time by one pass.

    Args:
        model: The bare model, in train mode.
        batch: ``inputs`` in 0..255 and ``data_samples``.
        adversarial: Adversarial inputs, likewise in 0..255.
        observe: Entered around each pass.
    """

    model: nn.Module
    batch: dict
    adversarial: Any
    observe: Observer = unobserved

    def inputs(self, side: str) -> Any:
        """Images of one side, in 0..255."""
        return self.batch['inputs'] if side == 'clean' else self.adversarial

    def losses(self, side: str) -> dict[str, Tensor | list[Tensor]]:
        """The model's own losses on one side, ``'clean'`` or ``'adversarial'``."""
        data = preprocess(self.model, self.inputs(side), self.batch['data_samples'])
        with self.observe(side):
            return self.model(**data, mode='loss')

    def logits(self, side: str) -> Tensor:
        """Class logits of one side, (N, K).

        Raises:
            ValueError: If the head gives something else.
        """
        data = preprocess(self.model, self.inputs(side), self.batch['data_samples'])
        with self.observe(side):
            logits = self.model(data['inputs'], mode='tensor')
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise ValueError(
                f'{type(self.model).__name__} gives no logits of shape (N, K) in mode '
                "'tensor'; give it a head of classes, as LinearClsHead."
            )
        return logits

    @property
    def labels(self) -> Tensor:
        """True classes, (N,)."""
        labels = [sample.gt_label for sample in self.batch['data_samples']]
        return torch.cat(labels)
