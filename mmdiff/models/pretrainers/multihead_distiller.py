"""Train a multi-head prior to predict what a class-conditional one does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmdiff.diffusion import DiffusionModel
from mmdiff.diffusion.multihead import MultiHeadDiffusionModel
from mmdiff.registry import MODELS

from .diffusion_pretrainer import DiffusionPretrainer


@MODELS.register_module()
class MultiHeadDistiller(DiffusionPretrainer):
    """Distillation of a class-conditional prior into one with a head for each class.

    Heads learn the teacher's outputs for the same noised images, class by class and
    without labels of the images (Chen et al. 2024, "Robust Classification via a Single
    Diffusion Model", appendix B: trained on noise alone, heads tell classes apart far
    worse). They begin as the teacher without a class; what is trained and exported is
    ``diffusion``, a :class:`MultiHeadDiffusionModel`.

    Args:
        model: Arguments of :meth:`DiffusionModel.from_pretrained` for the teacher.
        heads_per_step: Number of heads that learn in one step, chosen at random; each
            takes a pass of the teacher. ``None`` is all of them.
        autocast: See :class:`DiffusionPretrainer`.
        num_levels: Noise levels at which validation measures the loss.
        data_preprocessor: Config of mmengine's or mmdet's image preprocessor.

    Raises:
        ValueError: If no heads can be made of the teacher, or there are not so many.

    Example:
        >>> unet = dict(type='UNet2DModel', block_out_channels=(4, 8),
        ...     down_block_types=('DownBlock2D',) * 2, sample_size=16,
        ...     up_block_types=('UpBlock2D',) * 2, norm_num_groups=2,
        ...     num_class_embeds=3)
        >>> model = MultiHeadDistiller(dict(source=unet))
        >>> model(torch.zeros(2, 3, 16, 16), mode='loss')['loss'].shape
        torch.Size([])
    """

    def __init__(
        self,
        model: dict,
        heads_per_step: int | None = None,
        autocast: str | None = None,
        num_levels: int = 6,
        data_preprocessor: dict | None = None,
    ) -> None:
        super().__init__(model, autocast, 0.0, num_levels, data_preprocessor)
        heads = self.diffusion.num_heads
        if heads_per_step is not None and not 1 <= heads_per_step <= heads:
            raise ValueError(
                f'heads_per_step={heads_per_step} must be 1 to {heads}, the number of '
                'heads, or None for all of them.'
            )
        self.heads_per_step = heads_per_step
        self.train(self.training)

    def _load(self, model: dict) -> DiffusionModel:
        """Load the teacher, and make the prior that learns from it."""
        teacher = DiffusionModel.from_pretrained(**model)
        student = MultiHeadDiffusionModel.from_teacher(teacher)
        self.teacher = teacher.requires_grad_(False)
        return student

    def train(self, mode: bool = True) -> MultiHeadDistiller:
        """Set the mode; the teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def _labels(self, samples: list | None, device: torch.device) -> Tensor | None:
        """The classes of the images are not asked for: all heads learn of each."""
        return None

    def _error(self, x0: Tensor, t: Tensor, noise: Tensor, labels: Any) -> Tensor:
        """Return the mean squared difference from the teacher's outputs, (N,)."""
        x_t = self.diffusion.add_noise(x0, t, noise)
        heads = self._choose_heads()
        with torch.no_grad():
            targets = [
                self.teacher.predict(x_t, t, torch.full_like(t, head)) for head in heads
            ]
        outputs = self.diffusion.predict_heads(x_t, t)[:, heads]
        difference = outputs.float() - torch.stack(targets, 1).float()
        return difference.square().flatten(1).mean(1)

    def _choose_heads(self) -> list[int]:
        """Choose the heads of a step; held-out losses are of all."""
        count = self.diffusion.num_heads
        if self.heads_per_step is None or not self.diffusion.training:
            return list(range(count))
        return sorted(torch.randperm(count)[: self.heads_per_step].tolist())
