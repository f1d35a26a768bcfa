"""How badly a prior explains an image: one number, without a class to tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import DiffusionModel
from .chunks import check_chunk_size
from .levels import NoiseLevels, choose_levels
from .likelihood import CHUNK_SIZE, ClassLikelihood, denoising_errors
from .multihead import MultiHeadDiffusionModel
from .noise import fixed_noise


@dataclass(frozen=True)
class DenoisingError:
    """Mean over noise levels of ``|eps_theta(x_t, t) - eps|^2``, differentiable.

    But for weights and a constant it bounds ``-log p(x)`` (Ho et al. 2020, equation
    14): low where the prior finds an image likely. The squared error is the mean over
    an image's values, so that images of all sizes compare.

    A prior that knows no image without a class (it has neither ``condition`` nor a
    label for "no class") is asked for all of its classes, and the one that explains an
    image best counts.

    Args:
        model: The prior, whole.
        levels: Noise levels and weights, as :func:`choose_levels` gives them.
        noise_seed: Seed of the noise, which is a function of it, the number of the
            level and the position: the same for every image and in every call.
        condition: The class that is asked of a class-conditional prior.
        chunk_size: Most noised images in one pass of the U-Net.

    Raises:
        ValueError: If the prior does not have the class, or needs one that it does not
            count.

    Example:
        >>> model = DiffusionModel.from_pretrained('mmdiff::toy_voc')
        >>> error = DenoisingError(model, choose_levels(model, 4))
        >>> error(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2])
    """

    model: DiffusionModel
    levels: NoiseLevels
    noise_seed: int = 0
    condition: int | None = None
    chunk_size: int = CHUNK_SIZE

    def __post_init__(self) -> None:
        check_chunk_size(self.chunk_size)
        if self.condition is not None or not self.model.num_classes:
            self.model.check_condition(self.condition)

    @classmethod
    def of(
        cls,
        model: DiffusionModel,
        num_levels: int,
        times: Sequence[float] | None = None,
        noise_seed: int = 0,
        condition: int | None = None,
    ) -> DenoisingError:
        """Choose the levels, all of one weight: see :func:`choose_levels`."""
        levels = choose_levels(model, num_levels, times=times)
        return cls(model, levels, noise_seed, condition)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the error of each image, (N,).

        Args:
            x: Images, (N, 3, H, W) in [-1, 1], of sides that the prior takes.
        """
        self.model.check_images(x)
        label = self.model.null_class if self.condition is None else self.condition
        if label is None and self._needs_class:
            errors = ClassLikelihood(
                self.model, self.levels, 'fixed', self.noise_seed, self.chunk_size
            ).class_errors(x)
            return self._mean(errors).amin(1)
        x0 = self.model.encode(x)
        shape, first = tuple(x0.shape[1:]), self.noise_seed << 16
        noise = [fixed_noise(shape, first + k) for k in range(len(self.levels))]
        kind = torch.float32 if self.model.time_unit == 'sigma' else torch.int64
        times = torch.tensor(self.levels.times, dtype=kind)
        cond = None
        if label is not None:
            cond = torch.full((len(x),), label, device=x.device)
        errors = denoising_errors(
            self.model, x0, times, torch.cat(noise).to(x0), cond, self.chunk_size
        )
        return self._mean(errors)

    @property
    def _needs_class(self) -> bool:
        """Whether the prior predicts for its classes alone."""
        multihead = isinstance(self.model, MultiHeadDiffusionModel)
        return bool(self.model.num_classes) and (
            self.model.needs_condition or multihead
        )

    def _mean(self, errors: Tensor) -> Tensor:
        """Average over the levels, the last axis."""
        weights = torch.tensor(self.levels.weights, dtype=torch.float64)
        return (errors * weights.to(errors)).sum(-1)
