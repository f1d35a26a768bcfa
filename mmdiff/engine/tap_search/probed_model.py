"""Preprocessor, backbone and probe as one model, which mmdiff's attacks see through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmdiff.attacks.oracle import Oracle
from mmdiff.attacks.oracle.classification import ClassificationOracle
from mmdiff.attacks.oracle.detection import DetectionOracle

from .targets import ImageClasses, Targets, Task, to_grid


class ProbedModel(BaseModel):
    """A frozen backbone with a probe in the place of its head.

    Args:
        data_preprocessor: That of the detector or classifier.
        backbone: The backbone: gives a tuple of maps of preprocessed images.
        task: What the probe tells.
    """

    def __init__(
        self, data_preprocessor: nn.Module, backbone: nn.Module, task: Task
    ) -> None:
        super().__init__(data_preprocessor)
        self.backbone = backbone
        self.task = task
        self.probe: nn.Module = nn.Identity()

    def maps(self, x: Tensor) -> list[Tensor]:
        """Features of the backbone's taps on the grid of the task, (N, C, h, w) each.

        Args:
            x: Preprocessed images, (N, 3, H, W).
        """
        return [self.to_grid(feature, x) for feature in self.backbone(x)]

    def to_grid(self, feature: Tensor, x: Tensor) -> Tensor:
        """Bring a map to the grid of the task, (N, C, h, w).

        Args:
            feature: A map, (N, C, H', W').
            x: The preprocessed images that it is of, (N, 3, H, W).
        """
        return to_grid(feature, self.task.grid_of(x.shape[-2:]))

    def logits(self, x: Tensor) -> Tensor:
        """Logits at the locations of images, (N, K, L)."""
        return self.probe(torch.cat(self.maps(x), 1)).flatten(2)

    def forward(
        self, inputs: Tensor, data_samples: Sequence[Any] = (), mode: str = 'tensor'
    ) -> Tensor | dict[str, Tensor]:
        """Logits as :meth:`logits`, (N, K) of classifiers; or losses (``mode='loss'``).

        Args:
            inputs: Preprocessed images, (N, 3, H, W).
            data_samples: Their data samples, for losses.
            mode: ``'tensor'`` or ``'loss'``.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        logits = self.logits(inputs)
        return logits[..., 0] if isinstance(self.task, ImageClasses) else logits

    def image_losses(self, inputs: Tensor, data_samples: Sequence[Any]) -> Tensor:
        """Loss of each image, (N,)."""
        return self.targets(inputs, data_samples).losses(self.logits(inputs))

    def targets(self, inputs: Tensor, data_samples: Sequence[Any]) -> Targets:
        """True classes of preprocessed images, on their device."""
        targets = self.task.targets(data_samples, inputs.shape[-2:])
        return targets.to(inputs.device)

    def loss(self, inputs: Tensor, data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """Mean loss of a batch, as mm models give it."""
        return {'loss': self.image_losses(inputs, data_samples).mean()}


class LocationOracle(DetectionOracle):
    """Answers about a probe of locations, whose loss is of each image by itself."""

    training = False

    def image_losses(self, batch: dict, seeds: Sequence[int], objective: Any) -> Tensor:
        return self.model.image_losses(batch['inputs'], batch['data_samples'])


def oracle_of_probe(model: ProbedModel, gt_scale: str) -> Oracle:
    """Build the oracle of a probed model.

    Args:
        model: The model.
        gt_scale: Scale of boxes of the ground truth; see
            :class:`~mmdiff.attacks.oracle.detection.DetectionOracle`.
    """
    classifies = isinstance(model.task, ImageClasses)
    return (ClassificationOracle if classifies else LocationOracle)(model, gt_scale)
