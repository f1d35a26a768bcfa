"""A prior that counts timesteps on the pixels of an image: DDPM."""

import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor

from .timesteps import TimestepDiffusionModel
from .unets import check_unet, infer_patch_size


class DDPMDiffusionModel(TimestepDiffusionModel):
    """Pixel diffusion U-Net with its noise schedule (Ho et al. 2020).

    Args:
        unet: The denoiser. Its ``in_channels`` are 3 times ``patch_size ** 2``.
        scheduler: Holder of alpha_bar and of the kind of prediction.
        patch_size: The U-Net sees ``pixel_unshuffle(x, patch_size)``. ``None`` reads
            it off ``in_channels`` (3: 1, 12: 2, 48: 4, ...).

    Raises:
        ValueError: If the U-Net's channels are not those of RGB images.

    Example:
        >>> import torch
        >>> unet = UNet2DModel(block_out_channels=(4, 8), norm_num_groups=2,
        ...     down_block_types=('DownBlock2D',) * 2, sample_size=16,
        ...     up_block_types=('UpBlock2D',) * 2, in_channels=12, out_channels=12)
        >>> model = DDPMDiffusionModel(unet, DDPMScheduler()).eval()
        >>> model.patch_size, model.image_size
        (2, 32)
        >>> model.sample((1, 32, 32), steps=2).shape
        torch.Size([1, 3, 32, 32])
    """

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: DDPMScheduler,
        patch_size: int | None = None,
    ) -> None:
        check_unet(unet.config, scheduler)
        inferred = infer_patch_size(unet.config)
        if patch_size not in (None, inferred):
            raise ValueError(
                f'patch_size={patch_size} needs in_channels={3 * patch_size**2}, the '
                f'U-Net has {unet.config.in_channels}: leave patch_size out, it is '
                f'{inferred}.'
            )
        super().__init__(unet, scheduler, input_stride=inferred)
        self.patch_size = inferred

    @property
    def num_classes(self) -> int:
        count = self.unet.config.get('num_class_embeds') or 0
        return count - (self.null_class is not None)

    @property
    def needs_condition(self) -> bool:
        return self.unet.class_embedding is not None

    @property
    def null_class(self) -> int | None:
        return self.unet.config.get('null_class')

    @property
    def noise_channels(self) -> int:
        return self.unet.config.in_channels // self.patch_size**2

    def _network_input(self, x: Tensor) -> Tensor:
        """Turn (N, 3, H, W) into patches, (N, 3 p^2, H / p, W / p)."""
        self.check_size(*x.shape[-2:])
        return F.pixel_unshuffle(x, self.patch_size).to(self.unet.dtype)

    def _conditions(self, cond: Tensor | None, x: Tensor) -> dict[str, Tensor | None]:
        return {'labels': cond}

    def _predict(self, x_t: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        out = self.unet(self._network_input(x_t), t, cond, return_dict=False)[0]
        out = out[:, : self.unet.config.in_channels]  # past them, a learned variance
        return F.pixel_shuffle(out, self.patch_size)
