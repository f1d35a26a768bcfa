"""Train a diffusion prior with mmengine's Runner."""

import torch
from mmengine.model import BaseModel
from torch import Tensor

from mmdiff.registry import MODELS

from .diffusion_model import DiffusionModel


@MODELS.register_module()
class DiffusionPretrainer(BaseModel):
    """Denoising loss of a :class:`DiffusionModel`, as a model of the Runner.

    Images come as any mm dataset packs them; ``data_preprocessor`` must map them to
    RGB in [-1, 1] (mean = std = 127.5).

    Args:
        model: Arguments of :meth:`DiffusionModel.from_pretrained`; ``source`` is
            mostly a config dict (random weights).
        autocast: ``'bfloat16'`` runs the network in mixed precision, on CPU too.
            The loss stays in fp32. ``None`` is fp32 throughout.
        data_preprocessor: Config of mmengine's or mmdet's image preprocessor.

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
        data_preprocessor: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.diffusion = DiffusionModel.from_pretrained(**model)
        self.autocast_dtype = None if autocast is None else getattr(torch, autocast)

    def forward(
        self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor'
    ) -> dict[str, Tensor] | Tensor:
        """Denoising loss at random timesteps (``mode='loss'``, the only one)."""
        if mode != 'loss':
            raise ValueError(
                f'DiffusionPretrainer has no mode {mode!r}: it only trains (mode '
                "'loss'); use DiffusionModel for anything else."
            )
        t = torch.randint(
            self.diffusion.num_train_timesteps, (len(inputs),), device=inputs.device
        )
        with torch.autocast(
            inputs.device.type, self.autocast_dtype, self.autocast_dtype is not None
        ):
            loss = self.diffusion.diffusion_loss(inputs, t, torch.randn_like(inputs))
        # mmengine sums what is called loss; the others are logged only.
        late = t >= self.diffusion.num_train_timesteps // 2
        logged = {'loss': loss.mean()}
        for name, mask in (('low_noise', ~late), ('high_noise', late)):
            if mask.any():
                logged[name] = loss.detach()[mask].mean()
        return logged
