"""A prior that predicts the noise of all classes in one pass."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import DiffusionModel
from .ddpm import DDPMDiffusionModel
from .networks.multihead import check_teacher, widened_config, widened_weights
from .predictions import noise_from


class MultiHeadDiffusionModel(DDPMDiffusionModel):
    """Multi-head diffusion (Chen et al. 2024, "Robust Classification via a Single
    Diffusion Model", section 3.4): the last layer has the channels of every class.

    A diffusion classifier takes T passes of it in place of K x T. A class chooses its
    head in predictions and samples; features do not depend on one. It is made by
    :meth:`from_teacher` and trained by distillation (``tools/distill_multihead.py``).

    Args:
        unet: A ``UNet2DModel`` with ``num_class_heads`` times as many channels going
            out as come in, the heads of classes in front; its ``null_class`` is the
            number of the head of "no class", the last one, if there is one.
        scheduler: Holder of alpha_bar and of the kind of prediction.
        patch_size: See :class:`DDPMDiffusionModel`.

    Raises:
        ValueError: If the channels are not those of the heads.

    Example:
        >>> source = dict(type='UNet2DModel', block_out_channels=(4, 8),
        ...     down_block_types=('DownBlock2D',) * 2, sample_size=16,
        ...     up_block_types=('UpBlock2D',) * 2, norm_num_groups=2,
        ...     out_channels=3 * 5, num_class_heads=5)
        >>> model = DiffusionModel.from_pretrained(source)
        >>> model.num_classes, model.predict_noises(torch.zeros(2, 3, 16, 16), 9).shape
        (5, torch.Size([2, 5, 3, 16, 16]))
    """

    def __init__(
        self, unet: Any, scheduler: Any, patch_size: int | None = None
    ) -> None:
        super().__init__(unet, scheduler, patch_size)
        config = unet.config
        needed = self.num_heads * config.in_channels
        if config.get('num_class_embeds') or config.out_channels != needed:
            raise ValueError(
                f'A U-Net with num_class_heads={self.num_heads} and '
                f'in_channels={config.in_channels} has out_channels={needed} and no '
                f'num_class_embeds, not out_channels={config.out_channels} and '
                f'num_class_embeds={config.get("num_class_embeds")}.'
            )
        if self.null_class not in (None, self.num_heads - 1):
            raise ValueError(
                f'null_class={self.null_class} must be the last of '
                f'{self.num_heads} heads, {self.num_heads - 1}.'
            )

    @classmethod
    def from_teacher(cls, teacher: DiffusionModel) -> MultiHeadDiffusionModel:
        """Make a prior whose heads all predict what the teacher does without a class.

        There is a head of "no class" if the teacher knows it.

        Args:
            teacher: A class-conditional pixel prior.

        Raises:
            ValueError: If the teacher is of another kind, or has no classes.
        """
        check_teacher(teacher.unet)
        num_heads = teacher.num_classes + (teacher.null_class is not None)
        source = widened_config(teacher.unet.config, num_heads)
        schedule = {
            key: value
            for key, value in teacher.scheduler.config.items()
            if not key.startswith('_')
        }
        model = cls.from_pretrained({'type': 'UNet2DModel', **source}, schedule)
        model.unet.load_state_dict(widened_weights(teacher.unet, num_heads))
        return model  # type: ignore[return-value]

    @property
    def num_heads(self) -> int:
        """Number of heads, that of "no class" included."""
        return self.unet.config.num_class_heads

    @property
    def num_classes(self) -> int:
        return self.num_heads - (self.null_class is not None)

    @property
    def needs_condition(self) -> bool:
        """Features need no class; predictions without one are those of "no class"."""
        return False

    def check_condition(self, label: int | None = None) -> None:
        """Complain about a class where features are wanted.

        Raises:
            ValueError: If there is one.
        """
        if label is not None:
            raise ValueError(_no_condition(label))

    def _conditions(self, cond: Tensor | None, x: Tensor) -> dict[str, Tensor | None]:
        if cond is not None:
            raise ValueError(_no_condition('...'))
        return {'labels': None}

    def _predict_heads(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the output of all heads, (N, heads, C, H, W)."""
        out = self.unet(self._network_input(x_t), t, return_dict=False)[0]
        out = out.unflatten(1, (self.num_heads, self.unet.config.in_channels))
        return F.pixel_shuffle(out, self.patch_size)

    def _predict(self, x_t: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        if cond is None and self.null_class is None:
            raise ValueError(
                'This prior has a head for each class and none for "no class": give a '
                f'class, 0 to {self.num_classes - 1}.'
            )
        if cond is None:
            cond = torch.full((len(x_t),), self.null_class, device=x_t.device)
        return self._predict_heads(x_t, t)[torch.arange(len(x_t)), cond]

    def predict_heads(self, x_t: Tensor, t: float | Tensor) -> Tensor:
        """Return the raw outputs of all heads, (N, heads, C, H, W), by one pass.

        Args:
            x_t: Noised images, (N, C, H, W).
            t: Timestep, one or (N,).
        """
        self.check_whole()
        return self._predict_heads(x_t, self._times(t, x_t)).to(x_t.dtype)

    def predict_noises(
        self, x_t: Tensor, t: float | Tensor, guidance: float = 0.0
    ) -> Tensor:
        """Estimate the noise of every class, (N, K, C, H, W), by one pass.

        Args:
            x_t: Noised images, (N, C, H, W).
            t: Timestep, one or (N,).
            guidance: ``(1 + g) eps_y - g eps`` with the head of "no class".

        Raises:
            ValueError: If there is guidance but no head of "no class".
        """
        self.check_guidance(guidance)
        out = self.predict_heads(x_t, t)
        alpha, sigma = (scale[:, None] for scale in self.signal_and_noise(t, x_t))
        noises = noise_from(self.prediction_type, out, x_t[:, None], alpha, sigma)
        classes = noises[:, : self.num_classes]
        if guidance:
            classes = (1 + guidance) * classes - guidance * noises[:, self.null_class :]
        return classes.to(x_t.dtype)

    def check_guidance(self, guidance: float) -> None:
        """Complain about guidance that there is no head for.

        Raises:
            ValueError: If so.
        """
        if guidance and self.null_class is None:
            raise ValueError(
                f'guidance={guidance} needs a head of "no class", and this prior has '
                'none; leave it at 0.'
            )


def _no_condition(label: int | str) -> str:
    return (
        f'condition={label}: features of a multi-head prior do not depend on a class; '
        'leave the condition out.'
    )
