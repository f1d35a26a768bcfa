"""A prior that counts noise levels: EDM."""

import torch
from torch import Tensor

from .diffusion_model import DiffusionModel
from .networks import EDMPrecond
from .sampling import sample_heun


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
    prediction_type = 'sample'
    # log sigma of training noise is normal with this mean and deviation (table 1).
    P_mean, P_std = -1.2, 1.2

    def __init__(self, unet: EDMPrecond) -> None:
        super(DiffusionModel, self).__init__()  # no table of timesteps
        if unet.config['img_channels'] != 3:
            raise ValueError(
                f'img_channels={unet.config["img_channels"]}: a prior of RGB images '
                'has 3.'
            )
        self.unet, self.patch_size = unet, 1
        self._set_taps(unet.model.feature_info)

    @property
    def num_classes(self) -> int:
        return self.unet.label_dim

    @property
    def null_class(self) -> int | None:
        return self.unet.label_dim if self.unet.model.label_dropout else None

    @property
    def noise_channels(self) -> int:
        return self.unet.config['img_channels']

    @property
    def image_size(self) -> int:
        return self.unet.config['img_resolution']

    @property
    def time_range(self) -> tuple[float, float]:
        return self.unet.sigma_min, self.unet.sigma_max

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Noise levels that the sampler starts and ends with."""
        return max(self.unet.sigma_min, 0.002), min(self.unet.sigma_max, 80.0)

    def check_time(self, time: float) -> None:
        low, high = self.time_range
        if not (low <= time <= high and 0 < time < float('inf')):
            raise ValueError(
                f'sigma={time} is out of range; this prior takes finite noise levels '
                f'above 0, from {low} to {high} (trained mostly on 0.02 to 4).'
            )

    def _network_input(self, x: Tensor) -> Tensor:
        self.check_size(*x.shape[-2:])
        return x  # the network scales it before it casts

    def _tap_outputs(self, x_t, t, cond, names) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        for name, value in self.unet.run_blocks(self._network_input(x_t), t, cond):
            if name in names:
                out[name] = value
            if len(out) == len(set(names)):
                break
        return out

    def truncate(self, taps) -> None:
        super().truncate(taps)
        self.feature_info = self.unet.model.feature_info

    def _truncate(self, deepest: str) -> None:
        self.unet.model.truncate(deepest)

    def signal_and_noise(self, t, x: Tensor) -> tuple[Tensor, Tensor]:
        sigma = self._times(t, x).view(-1, 1, 1, 1).float()
        return torch.ones_like(sigma), sigma

    def _predict(self, x_t: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        return self.unet(self._network_input(x_t), t, cond)

    def sample_times(self, count: int, device: torch.device | str = 'cpu') -> Tensor:
        return (self.P_mean + self.P_std * torch.randn(count, device=device)).exp()

    @property
    def middle_time(self) -> float:
        return torch.tensor(self.P_mean).exp().item()

    def level_times(self, count: int) -> list[float]:
        quantiles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        return (
            (self.P_mean + self.P_std * torch.special.ndtri(quantiles)).exp().tolist()
        )

    def diffusion_loss(self, x0, t, noise, cond=None, weight=None) -> Tensor:
        """``lambda(sigma) |D(x_0 + sigma eps; sigma) - x_0|^2``, per sample: (N,).

        ``lambda = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2`` (table 1), so that
        every level counts the same at the start. Arguments as
        :meth:`DiffusionModel.diffusion_loss`, but no ``weight``: levels have no table.
        """
        if weight is not None:
            raise ValueError(
                'An EDM prior has no timesteps to weigh: leave weight out.'
            )
        error = super().diffusion_loss(x0, t, noise, cond)
        data = self.unet.sigma_data
        return error * (t**2 + data**2) / (t * data) ** 2

    def sample(
        self, shape, steps=18, generator=None, cond=None, guidance=1.0
    ) -> Tensor:
        """Draw images by :func:`sample_heun`; arguments as the base class's."""
        return sample_heun(self, shape, steps, generator, cond, guidance)

    def save_pretrained(self, folder: str) -> None:
        """Write config and weights; the folder is a ``source``."""
        self.check_whole()
        self.unet.save_pretrained(folder)
