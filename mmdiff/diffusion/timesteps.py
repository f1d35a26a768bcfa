"""What pixel and latent priors share: DDPM's timesteps on a U-Net of diffusers."""

import numbers
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from .base import DiffusionModel
from .features import (
    FeatureInfo,
    LayerRecorder,
    describe_taps,
    remaining_taps,
    run_blocks,
    take_taps,
    truncate_unet,
)
from .sampling import Request, sample_ddim
from .schedule import check_schedule
from .weights import save_network


class TimestepDiffusionModel(DiffusionModel):
    """Base of the priors that count DDPM's integer timesteps (Ho et al. 2020).

    Time goes from 0 (almost clean) to ``num_train_timesteps - 1`` (almost noise);
    ``alpha_t = sqrt(alpha_bar)`` and ``sigma_t = sqrt(1 - alpha_bar)``. A subclass says
    what its U-Net is fed (:meth:`_network_input`, :meth:`_conditions`) and how its
    output becomes a prediction (:meth:`_predict`).

    Args:
        unet: A U-Net of diffusers.
        scheduler: Holder of alpha_bar and of the kind of prediction.
        input_stride: Pixels of the image per pixel of the U-Net's input.

    Raises:
        ValueError: If no prior can have been trained with the schedule.
    """

    time_unit = 'timestep'
    default_steps = 50

    def __init__(
        self, unet: nn.Module, scheduler: DDPMScheduler, input_stride: int
    ) -> None:
        super().__init__(unet, describe_taps(unet, input_stride))
        self.input_stride = input_stride
        self.scheduler = scheduler
        check_schedule(scheduler)
        self.register_buffer(
            'alphas_cumprod', scheduler.alphas_cumprod.clone(), persistent=False
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: bool) -> nn.Module:
        """Move the schedule with the module, but never cast it: it stays exact."""
        exact = self.alphas_cumprod
        super()._apply(fn, *args)
        self.alphas_cumprod = exact.to(self.alphas_cumprod.device)
        return self

    @property
    def num_train_timesteps(self) -> int:
        """Length of the schedule. Priors that count sigmas have none."""
        return len(self.alphas_cumprod)

    @property
    def prediction_type(self) -> str:
        return self.scheduler.config.prediction_type

    @property
    def image_shape(self) -> tuple[int, int]:
        size = self.unet.config.sample_size
        if size is None:
            raise ValueError(
                'This prior does not say which images it was trained on: give the '
                'size, or set sample_size in its config (in pixels divided by '
                f'{self.input_stride}).'
            )
        height, width = (size, size) if isinstance(size, int) else size
        return self.input_stride * height, self.input_stride * width

    @property
    def time_range(self) -> tuple[float, float]:
        return 0, self.num_train_timesteps - 1

    @property
    def middle_time(self) -> float:
        return self.num_train_timesteps / 2

    def check_time(self, time: float) -> None:
        low, high = self.time_range
        if isinstance(time, bool) or not isinstance(time, numbers.Integral):
            raise ValueError(
                f'timestep={time!r} is no whole number; this prior counts timesteps '
                f'{low} to {high}.'
            )
        if not low <= time <= high:
            raise ValueError(
                f'timestep={time} is out of range; this prior has {low} (almost clean) '
                f'to {high} (almost noise).'
            )

    def sample_times(self, count: int, device: torch.device | str = 'cpu') -> Tensor:
        """Draw uniform timesteps for training, (count,)."""
        return torch.randint(self.num_train_timesteps, (count,), device=device)

    def level_times(self, count: int) -> list[float]:
        """Return the middles of ``count`` equal parts of the schedule."""
        return [
            (2 * i + 1) * self.num_train_timesteps // (2 * count) for i in range(count)
        ]

    def signal_and_noise(self, t: float | Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``sqrt(alpha_bar)`` and ``sqrt(1 - alpha_bar)``, (N, 1, 1, 1)."""
        alpha_bar = self.alphas_cumprod[self._times(t, x)].view(-1, 1, 1, 1).float()
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    @abstractmethod
    def _network_input(self, x: Tensor) -> Tensor:
        """Turn (N, C, H, W) into what the U-Net sees, in its precision."""

    @abstractmethod
    def _conditions(self, cond: Tensor | None, x: Tensor) -> dict[str, Tensor | None]:
        """Return ``cond`` for the images ``x`` under :func:`run_blocks`' names."""

    def _tap_outputs(
        self, x_t: Tensor, t: Tensor, cond: Tensor | None, names: list[str]
    ) -> dict[str, Tensor]:
        conditions = self._conditions(cond, x_t)
        blocks = run_blocks(self.unet, self._network_input(x_t), t, **conditions)
        with LayerRecorder(self.unet, names) as layers:
            return take_taps(blocks, names, layers)

    def _truncate(self, deepest: str) -> list[FeatureInfo]:
        truncate_unet(self.unet, deepest)
        return remaining_taps(self.feature_info, deepest)

    def enable_gradient_checkpointing(self) -> None:
        self.unet.enable_gradient_checkpointing()

    def _sample(self, request: Request) -> Tensor:
        return sample_ddim(self, self.scheduler, request)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a diffusers folder: config, weights and noise schedule."""
        self.check_whole()
        save_network(self.unet, folder)
        self.scheduler.save_pretrained(folder)
