"""A prior that counts noise levels: EDM."""

import numbers
from pathlib import Path

import torch
from torch import Tensor

from .base import DiffusionModel
from .features import FeatureInfo, take_taps
from .networks import EDMPrecond
from .sampling import Request, sample_heun


class EDMDiffusionModel(DiffusionModel):
    """Denoiser of ``x = x_0 + sigma eps`` (Karras et al. 2022).

    Time is sigma, a float in the units of images in [-1, 1]; the network's output is
    its estimate of ``x_0``. A class-conditional prior without a class runs with the
    zero vector in its place.

    Args:
        unet: The preconditioned network.

    Raises:
        ValueError: If the network is not one of RGB images.

    Example:
        >>> source = dict(type='EDMPrecond', img_resolution=16, img_channels=3,
        ...     model_type='SongUNet', model_channels=8, num_blocks=1)
        >>> model = DiffusionModel.from_pretrained(source)
        >>> x = torch.zeros(1, 3, 32, 32)
        >>> {k: tuple(v.shape) for k, v in model.features(x, 0.5, ['mid']).items()}
        {'mid': (1, 16, 4, 4)}
    """

    time_unit = 'sigma'
    default_steps = 18
    prediction_type = 'sample'
    # Mean and deviation of the logarithm of training sigmas (table 1).
    P_mean, P_std = -1.2, 1.2

    def __init__(self, unet: EDMPrecond) -> None:
        if unet.config['img_channels'] != 3:
            raise ValueError(
                f'img_channels={unet.config["img_channels"]}: a prior of RGB images '
                'has 3.'
            )
        super().__init__(unet, unet.model.feature_info)

    @property
    def image_shape(self) -> tuple[int, int]:
        side = self.unet.config['img_resolution']
        return side, side

    @property
    def noise_channels(self) -> int:
        return self.unet.config['img_channels']

    @property
    def num_classes(self) -> int:
        return self.unet.label_dim

    @property
    def null_class(self) -> int | None:
        return self.unet.label_dim if self.unet.model.label_dropout else None

    @property
    def time_range(self) -> tuple[float, float]:
        return self.unet.sigma_min, self.unet.sigma_max

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Noise levels that the sampler ends and starts with."""
        return max(self.unet.sigma_min, 0.002), min(self.unet.sigma_max, 80.0)

    @property
    def middle_time(self) -> float:
        return torch.tensor(self.P_mean).exp().item()

    def check_time(self, time: float) -> None:
        low, high = self.time_range
        if isinstance(time, bool) or not isinstance(time, numbers.Real):
            raise ValueError(f'sigma={time!r} is no number; give a noise level.')
        if not (low <= time <= high and 0 < time < float('inf')):
            raise ValueError(
                f'sigma={time} is out of range; this prior takes finite noise levels '
                f'above 0, from {low} to {high} (trained mostly on 0.02 to 4).'
            )

    def sample_times(self, count: int, device: torch.device | str = 'cpu') -> Tensor:
        """Draw log-normal noise levels for training (table 1), (count,)."""
        return (self.P_mean + self.P_std * torch.randn(count, device=device)).exp()

    def level_times(self, count: int) -> list[float]:
        """Return the middles of ``count`` equal parts of the training distribution."""
        quantiles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        log_sigmas = self.P_mean + self.P_std * torch.special.ndtri(quantiles)
        return log_sigmas.exp().tolist()

    def signal_and_noise(self, t: float | Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 and sigma, (N, 1, 1, 1)."""
        sigma = self._times(t, x).view(-1, 1, 1, 1).float()
        return torch.ones_like(sigma), sigma

    def _tap_outputs(
        self, x_t: Tensor, t: Tensor, cond: Tensor | None, names: list[str]
    ) -> dict[str, Tensor]:
        self.check_size(*x_t.shape[-2:])
        return take_taps(self.unet.run_blocks(x_t, t, cond), names)

    def _truncate(self, deepest: str) -> list[FeatureInfo]:
        self.unet.model.truncate(deepest)
        return self.unet.model.feature_info

    def enable_gradient_checkpointing(self) -> None:
        self.unet.enable_gradient_checkpointing()

    def _predict(self, x_t: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        self.check_size(*x_t.shape[-2:])
        return self.unet(x_t, t, cond)

    def diffusion_loss(
        self, x0: Tensor, t: Tensor, noise: Tensor, cond: Tensor | None = None
    ) -> Tensor:
        """Return ``lambda(sigma) |D(x_0 + sigma eps; sigma) - x_0|^2``, (N,).

        ``lambda = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2`` (table 1), so that
        every level counts the same at the start. Arguments as
        :meth:`DiffusionModel.diffusion_loss`.
        """
        error = super().diffusion_loss(x0, t, noise, cond)
        sigma_data = self.unet.sigma_data
        return error * (t**2 + sigma_data**2) / (t * sigma_data) ** 2

    def _sample(self, request: Request) -> Tensor:
        return sample_heun(self, self.sigma_range, request)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config and weights; the folder is a ``source``."""
        self.check_whole()
        self.unet.save_pretrained(folder)
