"""Remove noise of a known level from images in one step."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .base import DiffusionModel
from .levels import equivalent_sigma
from .schedule import sigma_to_timestep


@dataclass(frozen=True)
class OneStep:
    """The prior's estimate of the image in ``x + sigma eps``, without a class.

    A prior that counts timesteps is asked at the last timestep with no more noise.

    Args:
        model: The prior; a class-conditional one has to know "no class".
        sigma: Standard deviation of the noise, of images in [-1, 1].

    Raises:
        ValueError: If sigma is out of range, or the prior needs a class.
    """

    model: DiffusionModel
    sigma: float
    time: float = field(init=False)

    def __post_init__(self) -> None:
        if self.model.needs_condition and self.model.null_class is None:
            raise ValueError(
                'This prior always needs a class and cannot denoise an image of '
                'unknown class; take one that was trained with label dropout.'
            )
        if not self.sigma > 0:
            raise ValueError(f'sigma={self.sigma} of the noise must be above 0.')
        time: float = self.sigma
        if self.model.time_unit == 'timestep':
            table: Tensor = self.model.alphas_cumprod.cpu()
            position = sigma_to_timestep(table, torch.tensor(self.sigma))
            time = int(position.floor())
            if equivalent_sigma(self.model, int(self.model.time_range[1])) < self.sigma:
                raise ValueError(
                    f'sigma={self.sigma} is more noise than this prior knows; take '
                    'less.'
                )
        self.model.check_time(time)
        object.__setattr__(self, 'time', time)

    def __call__(self, x: Tensor) -> Tensor:
        """Return estimates, (N, C, H, W); differentiable.

        Args:
            x: Noisy images, (N, C, H, W), about in [-1, 1].
        """
        alpha, _ = self.model.signal_and_noise(self.time, x)
        cond = None
        if self.model.null_class is not None:
            cond = torch.full((len(x),), self.model.null_class, device=x.device)
        x_t = (alpha * x).to(x.dtype)
        return self.model.predict_x0(x_t, self.time, cond)
