"""Train a diffusion prior with mmengine's Runner."""

from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor

from mmdiff.diffusion import DiffusionModel
from mmdiff.diffusion.dtypes import parse_dtype
from mmdiff.registry import MODELS
from mmdiff.utils.seeding import mix_seed


@MODELS.register_module()
class DiffusionPretrainer(BaseModel):
    """Denoising loss of a :class:`DiffusionModel`, as a model of the Runner.

    The loss is the prior's own: DDPM's (noise, v or x0, by the schedule's
    ``prediction_type``) or EDM's. Images come as any mm dataset packs them;
    ``data_preprocessor`` must map them to RGB in [-1, 1] (mean = std = 127.5). A
    class-conditional prior takes the class from ``gt_label`` (mmpretrain's datasets).

    Args:
        model: Arguments of :meth:`DiffusionModel.from_pretrained`; ``source`` is
            mostly a config dict (random weights).
        autocast: ``'bfloat16'`` runs the network in mixed precision, on CPU too.
            The loss stays in fp32. ``None`` is fp32 throughout.
        label_dropout: Share of images trained as "no class" (Ho and Salimans 2022);
            the prior needs a ``null_class``.
        num_levels: Noise levels at which validation measures the loss.
        data_preprocessor: Config of mmengine's or mmdet's image preprocessor.

    Raises:
        ValueError: If there is label dropout on a prior that cannot learn it, the
            prior's config does not say how large its images are, or a class-conditional
            prior gets images without labels.

    Example:
        >>> unet = dict(type='UNet2DModel', block_out_channels=(4, 8),
        ...     down_block_types=('DownBlock2D',) * 2, sample_size=16,
        ...     up_block_types=('UpBlock2D',) * 2, norm_num_groups=2)
        >>> model = DiffusionPretrainer(dict(source=unet))
        >>> losses = model(torch.zeros(2, 3, 16, 16), mode='loss')
        >>> losses['loss'].shape
        torch.Size([])
    """

    def __init__(
        self,
        model: dict,
        autocast: str | None = None,
        label_dropout: float = 0.0,
        num_levels: int = 6,
        data_preprocessor: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        # It comes in eval mode; here it is to be trained.
        self.diffusion = self._load(model).train()
        # What the export needs is asked before the training, not after it.
        self.diffusion.check_size(*self.diffusion.image_shape)
        self.autocast_dtype = None if autocast is None else parse_dtype(autocast)
        if label_dropout and self.diffusion.null_class is None:
            raise ValueError(
                f'label_dropout={label_dropout} needs a class-conditional prior with a '
                'label for "no class": set num_class_embeds to the number of classes '
                'plus 1 and null_class to the number of classes.'
            )
        self.label_dropout = label_dropout
        self.num_levels = num_levels

    def _load(self, model: dict) -> DiffusionModel:
        """Load what is trained.

        Args:
            model: Arguments of :meth:`DiffusionModel.from_pretrained`.
        """
        return DiffusionModel.from_pretrained(**model)

    def forward(
        self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor'
    ) -> dict[str, Tensor] | list[dict[str, float]]:
        """Train on, or measure, the denoising loss.

        Args:
            inputs: Images, (N, 3, H, W) in [-1, 1].
            data_samples: With ``gt_label`` for a class-conditional prior.
            mode: ``'loss'``: the mean at random times, to train on. ``'predict'``: the
                losses of every image at fixed times with fixed noise, named after the
                times.

        Raises:
            ValueError: If there is no such mode, or labels are missing.
        """
        if mode not in ('loss', 'predict'):
            raise ValueError(
                f'DiffusionPretrainer has no mode {mode!r}: it trains (mode '
                "'loss') and measures its loss (mode 'predict'); use DiffusionModel "
                'for anything else.'
            )
        x0 = self.diffusion.encode(inputs)
        labels = self._labels(data_samples, inputs.device)
        if mode == 'predict':
            return self._held_out(x0, labels, data_samples or [])
        if self.label_dropout:
            dropped = torch.rand(len(x0), device=x0.device) < self.label_dropout
            labels = torch.where(dropped, self.diffusion.null_class, labels)
        t = self.diffusion.sample_times(len(x0), x0.device)
        loss = self._loss(x0, t, torch.randn_like(x0), labels)
        # mmengine sums what is called loss; the others are logged only.
        late = t >= self.diffusion.middle_time
        logged = {'loss': loss.mean()}
        for name, mask in (('low_noise', ~late), ('high_noise', late)):
            if mask.any():
                logged[name] = loss.detach()[mask].mean()
        return logged

    def _loss(
        self, x0: Tensor, t: Tensor, noise: Tensor, labels: Tensor | None
    ) -> Tensor:
        """Return the prior's loss per sample, (N,), in fp32."""
        with torch.autocast(
            x0.device.type, self.autocast_dtype, self.autocast_dtype is not None
        ):
            return self._error(x0, t, noise, labels)

    def _error(
        self, x0: Tensor, t: Tensor, noise: Tensor, labels: Tensor | None
    ) -> Tensor:
        """Return what is minimised, per sample, (N,)."""
        return self.diffusion.diffusion_loss(x0, t, noise, labels)

    def _labels(self, samples: list | None, device: torch.device) -> Tensor | None:
        """Return the classes of the images, (N,), if the prior has any."""
        if not self.diffusion.num_classes:
            return None
        if samples is None or any('gt_label' not in sample for sample in samples):
            raise ValueError(
                'This prior is class-conditional and the images have no gt_label; take '
                'a dataset with labels (mmpretrain.CustomDataset), or a prior without '
                'num_class_embeds.'
            )
        labels = torch.cat([sample.gt_label.reshape(-1)[:1] for sample in samples])
        return labels.to(device)

    def _held_out(
        self, x0: Tensor, labels: Tensor | None, samples: list
    ) -> list[dict[str, float]]:
        """Measure every image's loss at ``num_levels`` times, with its own noise."""
        noise = torch.stack([self._noise_of(sample, x0[0]) for sample in samples])
        results: list[dict[str, float]] = [{} for _ in x0]
        for t in self.diffusion.level_times(self.num_levels):
            times = torch.full((len(x0),), t, device=x0.device)
            # mmengine averages the logs of whatever has "time" or "loss" in its name.
            unit = 'sigma' if self.diffusion.time_unit == 'sigma' else 't'
            name = f'{unit}_{t:g}'
            for result, loss in zip(results, self._loss(x0, times, noise, labels)):
                result[name] = loss.item()
        return results

    @staticmethod
    def _noise_of(sample: Any, image: Tensor) -> Tensor:
        """Draw noise that follows from the name of the image's file."""
        key = str(sample.get('img_path', sample.get('img_id', 0))).rsplit('/', 1)[-1]
        generator = torch.Generator().manual_seed(mix_seed(key))
        return torch.randn(image.shape, generator=generator).to(image)
