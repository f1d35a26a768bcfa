"""EDM's preconditioned denoiser."""

import json
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .edm_unet import EDMUNet


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
        sigma_max: Largest one.
        sigma_data: Standard deviation of the data.
        model_type: ``'SongUNet'`` (DDPM++, NCSN++) or ``'DhariwalUNet'`` (ADM).
        **model_kwargs: Arguments of :class:`EDMUNet`.

    Raises:
        ValueError: For an unknown ``model_type`` or option.
        TypeError: For an argument that the network does not have.

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
        self.label_dim, self.sigma_data = label_dim, sigma_data
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.model = EDMUNet(
            model_type, img_resolution, img_channels, label_dim, **model_kwargs
        )

    @property
    def dtype(self) -> torch.dtype:
        return self.model.map_layer0.weight.dtype

    def enable_gradient_checkpointing(self) -> None:
        """Keep no activations inside blocks: less memory, more time."""
        self.model.gradient_checkpointing = True

    def _class_vectors(self, labels: Tensor | None) -> Tensor | None:
        """Labels (N,) -> one-hot (N, label_dim); ``label_dim`` is "no class", zeros."""
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

    def _inputs(self, x: Tensor, sigma: Tensor, labels, augment) -> tuple:
        scale = (sigma.float().view(-1, 1, 1, 1) ** 2 + self.sigma_data**2).rsqrt()
        x = (scale * x).to(self.dtype)
        return x, sigma.float().log() / 4, self._class_vectors(labels), augment

    def run_blocks(self, x, sigma, labels=None, augment=None):
        """Yield ``(tap, output)`` block by block; arguments as :meth:`forward`."""
        yield from self.model.run_blocks(*self._inputs(x, sigma, labels, augment))

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        labels: Tensor | None = None,
        augment: Tensor | None = None,
    ) -> Tensor:
        """Estimate of the clean image, summed in fp32 or better.

        Args:
            x: Noised images ``x_0 + sigma eps``, (N, C, H, W).
            sigma: Noise levels, (N,), above 0.
            labels: Classes, (N,) whole numbers; ``None`` is no class.
            augment: Augmentations, (N, augment_dim); ``None`` is none.

        Raises:
            ValueError: For a class that the network does not have.
        """
        out = self.model(*self._inputs(x, sigma, labels, augment))
        sigma, data = sigma.float().view(-1, 1, 1, 1), self.sigma_data
        total = sigma**2 + data**2
        return data**2 / total * x + sigma * data * total.rsqrt() * out

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
