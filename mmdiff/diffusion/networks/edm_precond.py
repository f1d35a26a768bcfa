"""EDM's preconditioned denoiser."""

import json
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .dhariwal_unet import DhariwalUNet
from .encoder_decoder import Blocks
from .song_unet import SongUNet, check_choice

NETWORKS = {'SongUNet': SongUNet, 'DhariwalUNet': DhariwalUNet}


class Preconditioning(NamedTuple):
    """Factors of EDM's denoiser at given noise levels (table 1)."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


class EDMPrecond(nn.Module):
    """``D(x; sigma) = c_skip x + c_out F(c_in x; c_noise)``, an estimate of x_0.

    The preconditioning is that of Karras et al. 2022, table 1; arguments and names of
    parameters are those of the published checkpoints.

    Args:
        img_resolution: Side of the images that the network was made for.
        img_channels: Channels of the image.
        label_dim: Number of classes; 0 is unconditional.
        use_fp16: Accepted, without effect: everything runs in the precision of the
            parameters.
        sigma_min: Smallest noise level that the network knows.
        sigma_max: Largest noise level that it knows.
        sigma_data: Standard deviation of the data.
        model_type: ``'SongUNet'`` (DDPM++, NCSN++) or ``'DhariwalUNet'`` (ADM).
        **model_kwargs: Arguments of :class:`SongUNet` or :class:`DhariwalUNet`.

    Raises:
        ValueError: If ``model_type`` or an option is unknown.
        TypeError: If the network does not have an argument.

    Example:
        >>> self = EDMPrecond(16, 3, model_type='SongUNet', model_channels=8)
        >>> self(torch.zeros(1, 3, 16, 16), torch.ones(1)).shape
        torch.Size([1, 3, 16, 16])
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        use_fp16: bool = False,
        sigma_min: float = 0.0,
        sigma_max: float = float('inf'),
        sigma_data: float = 0.5,
        model_type: str = 'DhariwalUNet',
        **model_kwargs,
    ) -> None:
        super().__init__()
        self.config = dict(
            img_resolution=img_resolution,
            img_channels=img_channels,
            label_dim=label_dim,
            use_fp16=use_fp16,
            sigma_min=sigma_min,
            sigma_max=sigma_max,
            sigma_data=sigma_data,
            model_type=model_type,
            **model_kwargs,
        )
        check_choice('model_type', model_type, tuple(NETWORKS))
        self.label_dim, self.sigma_data = label_dim, sigma_data
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.model = NETWORKS[model_type](
            img_resolution, img_channels, label_dim, **model_kwargs
        )

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters."""
        return self.model.map_layer0.weight.dtype

    def enable_gradient_checkpointing(self) -> None:
        """Keep no activations inside blocks: less memory, more time."""
        self.model.gradient_checkpointing = True

    def precondition(self, sigma: Tensor) -> Preconditioning:
        """Return the factors at the noise levels ``sigma``, (N,), in fp32.

        All are of shape (N, 1, 1, 1), but ``c_noise`` is (N,).
        """
        c_noise = sigma.float().log() / 4
        sigma, sigma_data = sigma.float().view(-1, 1, 1, 1), self.sigma_data
        total = sigma**2 + sigma_data**2
        c_skip = sigma_data**2 / total
        c_out = sigma * sigma_data * total.rsqrt()
        c_in = total.rsqrt()
        return Preconditioning(c_skip, c_out, c_in, c_noise)

    def _one_hot(self, labels: Tensor | None) -> Tensor | None:
        """Turn labels (N,) into (N, label_dim); "no class", ``label_dim``, is zeros."""
        if labels is None:
            return None
        if not self.label_dim:
            raise ValueError('This prior is unconditional: leave the condition out.')
        if labels.min() < 0 or labels.max() > self.label_dim:
            raise ValueError(
                f'Class {labels.tolist()} is out of range; this prior has 0 to '
                f'{self.label_dim - 1} ({self.label_dim} is "no class").'
            )
        return F.one_hot(labels.long(), self.label_dim + 1)[:, :-1].to(self.dtype)

    def run_blocks(
        self,
        x: Tensor,
        sigma: Tensor,
        labels: Tensor | None = None,
        augment: Tensor | None = None,
    ) -> Blocks:
        """Yield ``(tap, output)`` of F block by block; arguments as :meth:`forward`."""
        c = self.precondition(sigma)
        x = (c.c_in * x).to(self.dtype)
        yield from self.model.run_blocks(x, c.c_noise, self._one_hot(labels), augment)

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        labels: Tensor | None = None,
        augment: Tensor | None = None,
    ) -> Tensor:
        """Estimate the clean image; the sum is taken in fp32 or better.

        Args:
            x: Noised images ``x_0 + sigma eps``, (N, C, H, W).
            sigma: Noise levels, (N,), above 0.
            labels: Classes, (N,) whole numbers; ``None`` is no class.
            augment: Augmentations, (N, augment_dim); ``None`` is none.

        Raises:
            ValueError: If the network does not have a class.
        """
        c = self.precondition(sigma)
        x_in = (c.c_in * x).to(self.dtype)
        out = self.model(x_in, c.c_noise, self._one_hot(labels), augment)
        return c.c_skip * x + c.c_out * out

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``diffusion_pytorch_model.safetensors``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # JSON knows no infinity; it is the default.
        config = {k: v for k, v in self.config.items() if v != float('inf')}
        text = json.dumps({'_class_name': type(self).__name__, **config}, indent=2)
        (folder / 'config.json').write_text(text + '\n')
        weights = {k: v.contiguous() for k, v in self.state_dict().items()}
        data = safetensors.torch.save(weights, metadata={'format': 'pt'})
        (folder / 'diffusion_pytorch_model.safetensors').write_bytes(data)
