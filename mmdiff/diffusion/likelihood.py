"""Likelihoods by denoising: how well a prior explains images, class by class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import DiffusionModel
from .chunks import check_chunk_size, run_chunks
from .levels import NoiseLevels
from .multihead import MultiHeadDiffusionModel
from .noise import fixed_noise

NOISES = ('fixed', 'fresh')
CHUNK_SIZE = 64


def denoising_errors(
    model: DiffusionModel,
    x: Tensor,
    t: Tensor,
    noise: Tensor,
    cond: Tensor | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> Tensor:
    """Return ``|eps_theta(x_t, t, y) - eps|^2``, the mean over all values of an image.

    Differentiable in ``x`` (and in the parameters). The U-Net runs on ``chunk_size``
    noised images at a time, and each chunk is computed again when its gradient is
    taken: memory does not grow with the number of times.

    Args:
        model: The prior.
        x: What noise is added to, (N, C, H, W): images in [-1, 1], or the latents that
            ``model.encode`` makes of them.
        t: Timesteps or sigmas, (T,) for all images or (N, T).
        noise: Standard normal noise, (T, C, H, W) for all images or (N, T, C, H, W).
        cond: Classes, (N,), of a class-conditional prior.
        chunk_size: Most noised images in one pass of the U-Net.

    Returns:
        (N, T).

    Raises:
        ValueError: If a time is out of range, there is none, or the shapes do not fit.

    Example:
        >>> model = DiffusionModel.from_pretrained('mmdiff::toy_voc')
        >>> x, t = torch.zeros(2, 3, 32, 32), torch.tensor([10, 500, 900])
        >>> denoising_errors(model, x, t, torch.randn(3, 3, 32, 32)).shape
        torch.Size([2, 3])
    """
    count, levels = len(x), t.shape[-1] if t.ndim else 0
    _check_shapes(x, t, noise)
    for time in t.flatten().tolist():
        model.check_time(time)
    times = t.to(x.device).expand(count, levels)
    noises = noise.to(x.device).expand(count, levels, *x.shape[1:])

    def errors(x: Tensor, rows: Tensor) -> Tensor:
        image, level = rows // levels, rows % levels
        labels = None if cond is None else cond[image]
        return noise_errors(
            model, x[image], times[image, level], noises[image, level], labels
        )

    rows = torch.arange(count * levels, device=x.device)
    errors_of_rows = run_chunks(model, errors, x, rows, chunk_size, noises)
    return errors_of_rows.view(count, levels)


def _check_shapes(x: Tensor, t: Tensor, noise: Tensor) -> None:
    count, levels = len(x), t.shape[-1] if t.ndim else 0
    if not levels:
        raise ValueError(
            f't has the shape {tuple(t.shape)} and no time to add noise at; give (T,) '
            'times, one at least.'
        )
    shapes = (levels,), (count, levels)
    noises = [(*shape, *x.shape[1:]) for shape in shapes]
    if tuple(t.shape) not in shapes or tuple(noise.shape) not in noises:
        raise ValueError(
            f't of the shape {tuple(t.shape)} and noise of the shape '
            f'{tuple(noise.shape)} do not fit images of the shape {tuple(x.shape)}; '
            'give (T,) or (N, T) times and (T, C, H, W) or (N, T, C, H, W) noises.'
        )


def noise_errors(
    model: DiffusionModel,
    x: Tensor,
    t: Tensor,
    noise: Tensor,
    cond: Tensor | None = None,
) -> Tensor:
    """Return the mean squared error of the predicted noise, (R,), by one pass.

    Args:
        model: The prior.
        x: What noise is added to, (R, C, H, W).
        t: Times, (R,).
        noise: Noise, like ``x``.
        cond: Classes, (R,), of a class-conditional prior.
    """
    estimate = model.predict_noise(model.add_noise(x, t, noise), t, cond)
    return (estimate - noise).square().flatten(1).mean(1)


@dataclass(frozen=True)
class NoiseDraws:
    """Noises of one call, by the number of their level; drawn again, they are the same.

    Args:
        seed: What they follow from.
        shared: One noise for all images, which depends on seed, level and position
            alone; else every image has its own.
    """

    seed: int
    shared: bool

    def rows(self, x: Tensor, level: Tensor, image: Tensor) -> Tensor:
        """Return the noises of some rows, (R, C, H, W).

        Args:
            x: All images, (N, C, H, W).
            level: Number of each row's level, (R,), rising.
            image: Number of its image, (R,).
        """
        parts = []
        for number in level.unique().tolist():
            images = image[level == number]
            if self.shared:
                shape = tuple(x.shape[1:])
                noise = fixed_noise(shape, (self.seed << 16) + number).to(x)
                parts.append(noise.expand(len(images), *shape))
            else:
                generator = torch.Generator(x.device)
                generator.manual_seed((self.seed << 16) + number)
                noise = torch.randn(
                    x.shape, generator=generator, device=x.device, dtype=x.dtype
                )
                parts.append(noise[images])
        return torch.cat(parts)


@dataclass(frozen=True)
class ClassLikelihood:
    """Class logits of images from the errors of a class-conditional prior.

    ``logit_y = -sum_t w_t |eps_theta(x_t, t, y) - eps|^2`` with a uniform prior over
    classes (Chen et al. 2024, "Robust Classification via a Single Diffusion Model"; Li
    et al. 2023, "Your Diffusion Model is Secretly a Zero-Shot Classifier"). The squared
    error is the mean over an image's values. All classes see the same noise. A
    multi-head prior predicts for all classes in one pass.

    Differentiable in the images, with memory that grows neither with the number of
    levels nor with that of classes: the U-Net runs on ``chunk_size`` noised images at a
    time, and each chunk is computed again when its gradient is taken.

    Args:
        model: The prior.
        levels: Noise levels and weights, as :func:`choose_levels` gives them.
        noise: ``'fixed'``: a function of ``noise_seed``, the level and the position,
            the same for every image and batch size. ``'fresh'``: drawn anew in every
            call, for every image.
        noise_seed: Seed of the fixed noise.
        chunk_size: Most noised images in one pass of the U-Net.
        guidance: Of a multi-head prior; see
            :meth:`MultiHeadDiffusionModel.predict_noises`.

    Raises:
        ValueError: If the prior has no classes, ``noise`` is unknown, or there is
            guidance without a head for it.

    Example:
        >>> from mmdiff.diffusion.levels import choose_levels
        >>> source = dict(type='UNet2DModel', block_out_channels=(4, 8),
        ...     down_block_types=('DownBlock2D',) * 2, sample_size=16,
        ...     up_block_types=('UpBlock2D',) * 2, norm_num_groups=2,
        ...     num_class_embeds=3)
        >>> model = DiffusionModel.from_pretrained(source)
        >>> likelihood = ClassLikelihood(model, choose_levels(model, num_levels=5))
        >>> likelihood.class_logits(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 3])
    """

    model: DiffusionModel
    levels: NoiseLevels
    noise: str = 'fixed'
    noise_seed: int = 0
    chunk_size: int = CHUNK_SIZE
    guidance: float = 0.0

    def __post_init__(self) -> None:
        if not self.model.num_classes:
            raise ValueError(
                'This prior has no classes to tell apart: a diffusion classifier needs '
                'a class-conditional one, as mmdiff::cifar10_patch2.'
            )
        if self.noise not in NOISES:
            raise ValueError(
                f'noise={self.noise!r} is unknown; choose one of {NOISES}.'
            )
        check_chunk_size(self.chunk_size)
        if self.multihead:
            self.model.check_guidance(self.guidance)
        elif self.guidance:
            raise ValueError(
                f'guidance={self.guidance} is of multi-head priors; leave it at 0.'
            )

    @property
    def num_classes(self) -> int:
        """Number of classes, K."""
        return self.model.num_classes

    @property
    def passes(self) -> int:
        """Passes of the U-Net that the logits of one image take."""
        return len(self.levels) * (1 if self.multihead else self.num_classes)

    @property
    def multihead(self) -> bool:
        """Whether one pass predicts for all classes."""
        return isinstance(self.model, MultiHeadDiffusionModel)

    def draw(self) -> NoiseDraws:
        """Choose the noises of one call."""
        if self.noise == 'fixed':
            return NoiseDraws(self.noise_seed, shared=True)
        # From torch's global generator, so that attacks can seed it.
        return NoiseDraws(int(torch.randint(2**31, ())), shared=False)

    def class_logits(self, x: Tensor) -> Tensor:
        """Return class logits, (N, K).

        Args:
            x: What noise is added to, (N, C, H, W): images in [-1, 1].
        """
        errors = self.class_errors(x)
        weights = torch.tensor(self.levels.weights, dtype=torch.float64)
        return -(errors * weights.to(errors)).sum(-1)

    def class_errors(self, x: Tensor) -> Tensor:
        """Return the error of every class at every level, (N, K, T)."""
        self.model.check_images(x)
        shape = len(self.levels), len(x), self.num_classes
        sizes = shape[:2] if self.multihead else shape
        rows = torch.cartesian_prod(*(torch.arange(size) for size in sizes))
        level, image, *label = rows.unbind(1)
        if self.multihead:
            errors = self._head_errors(x, self.draw(), level, image)
        else:
            errors = self.pair_errors(x, self.draw(), level, image, *label)
        return errors.view(shape).permute(1, 2, 0)

    def _head_errors(
        self, x: Tensor, draws: NoiseDraws, level: Tensor, image: Tensor
    ) -> Tensor:
        """Return the errors of all heads, (R, K); arguments as :meth:`pair_errors`."""

        def errors(x: Tensor, rows: Tensor) -> Tensor:
            x0 = x[image[rows].to(x.device)]
            times = self._times(level[rows], x.device)
            noise = draws.rows(x, level[rows], image[rows])
            x_t = self.model.add_noise(x0, times, noise)
            estimates = self.model.predict_noises(x_t, times, self.guidance)
            return (estimates - noise[:, None]).square().flatten(2).mean(2)

        rows = torch.arange(len(level))
        return run_chunks(self.model, errors, x, rows, self.chunk_size)

    def pair_errors(
        self, x: Tensor, draws: NoiseDraws, level: Tensor, image: Tensor, label: Tensor
    ) -> Tensor:
        """Return the errors of some classes of some images at some levels, (R,).

        Args:
            x: All images, (N, C, H, W).
            draws: Noises of this call.
            level: Number of each row's level, (R,), rising, on the CPU.
            image: Number of its image, (R,).
            label: Its class, (R,).
        """

        def errors(x: Tensor, rows: Tensor) -> Tensor:
            images, labels = image[rows].to(x.device), label[rows].to(x.device)
            times = self._times(level[rows], x.device)
            noise = draws.rows(x, level[rows], image[rows])
            return noise_errors(self.model, x[images], times, noise, labels)

        rows = torch.arange(len(level))
        return run_chunks(self.model, errors, x, rows, self.chunk_size)

    def _times(self, level: Tensor, device: torch.device) -> Tensor:
        """Return the times of levels, (R,): timesteps are whole numbers."""
        kind = torch.float32 if self.model.time_unit == 'sigma' else torch.int64
        return torch.tensor(self.levels.times, dtype=kind)[level].to(device)
