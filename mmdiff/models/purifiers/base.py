"""What stands in front of a model and takes an attack off its images."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from numbers import Integral
from pathlib import Path

import torch
from torch import Tensor, nn

from mmdiff.diffusion import DenoisingError, DiffusionModel
from mmdiff.diffusion.noise import fixed_noise

from ..priors import check_condition, prior_arguments

GRADIENTS = ('exact', 'bpda', 'surrogate')
NOISES = ('fixed', 'fresh')


class Purifier(nn.Module, ABC):
    """Images in, the images that a frozen prior makes of them out.

    Images are RGB in [-1, 1], of any size: what does not divide by the prior's stride
    is continued by reflection, on the right and below, and cut off again. A subclass
    says what is done (:meth:`purify`).

    Args:
        model: A prior (``mmdiff::NAME``, folder, hub id, or a ``UNet2DModel`` config
            for random weights), or the arguments of ``DiffusionModel.from_pretrained``
            as a dict with ``source``.
        gradient: ``'exact'``: whoever differentiates the result goes through all that
            was computed. ``'bpda'``: the slope is said to be that of the identity
            (backward pass differentiable approximation; Athalye et al. 2018, section
            4.1), so that an attack on it is weaker than it could be: a row of a report
            is flagged for it. ``'surrogate'``, of purifiers in steps: that of the same
            purifier in ``surrogate_steps``; the values are those of all steps. It takes
            less time, and is flagged, too.
        noise: ``'fixed'``: a function of ``noise_seed``, the position and the number of
            the sample, the same for every image and batch size. ``'fresh'``: drawn
            anew in every pass; attack it with ``eot`` above 1.
        noise_seed: Seed of the fixed noise.
        condition: The class that is asked of a class-conditional prior.
        surrogate_steps: Steps of the surrogate, fewer than those of the purifier.

    Raises:
        ValueError: For an unknown gradient or noise, a class that the prior does not
            have, or steps of a surrogate without one, or without fewer steps.
    """

    # Steps of a purification; of one without steps there is no surrogate.
    steps: int | None = None

    def __init__(
        self,
        model: str | Path | dict,
        gradient: str = 'exact',
        noise: str = 'fixed',
        noise_seed: int = 0,
        condition: int | None = None,
        surrogate_steps: int | None = None,
    ) -> None:
        super().__init__()
        if gradient not in GRADIENTS:
            raise ValueError(
                f'gradient={gradient!r} is unknown; choose one of {GRADIENTS}.'
            )
        if noise not in NOISES:
            raise ValueError(f'noise={noise!r} is unknown; choose one of {NOISES}.')
        if isinstance(noise_seed, bool) or not isinstance(noise_seed, Integral):
            raise ValueError(f'noise_seed={noise_seed!r} must be a whole number.')
        self.gradient, self.noise = gradient, noise
        self.noise_seed, self.condition = int(noise_seed), condition
        self._check_surrogate(surrogate_steps)
        self.surrogate_steps = surrogate_steps
        self.source = prior_arguments(model)
        self.prior = DiffusionModel.from_pretrained(**self.source)
        self.prior.requires_grad_(False)
        check_condition(self.prior, condition)
        self.eval()

    def _check_surrogate(self, surrogate_steps: int | None) -> None:
        """Complain about steps of a surrogate that there cannot be.

        Raises:
            ValueError: If so.
        """
        kind = type(self).__name__
        if self.gradient != 'surrogate':
            if surrogate_steps is not None:
                raise ValueError(
                    f'surrogate_steps={surrogate_steps!r} belong to '
                    f"gradient='surrogate', not to {self.gradient!r}; leave them out."
                )
            return
        if self.steps is None:
            raise ValueError(
                f"gradient='surrogate' is of fewer steps, and {kind} has one; take "
                "'exact' or 'bpda'."
            )
        whole = isinstance(surrogate_steps, Integral)
        if isinstance(surrogate_steps, bool) or not whole:
            raise ValueError(
                f"gradient='surrogate' needs surrogate_steps, a whole number below the "
                f'{self.steps} steps of {kind}, not {surrogate_steps!r}.'
            )
        if not 1 <= surrogate_steps < self.steps:
            raise ValueError(
                f'surrogate_steps={surrogate_steps} must be at least 1 and fewer than '
                f'the {self.steps} steps of {kind}.'
            )

    @property
    @abstractmethod
    def num_noises(self) -> int:
        """Number of noises that one purification of an image takes."""

    @abstractmethod
    def purify(self, x: Tensor, sample: int, steps: int | None = None) -> Tensor:
        """Purify images of a size that divides by the prior's stride.

        Args:
            x: Images, (N, 3, H, W), RGB in [-1, 1].
            sample: Number of the sample.
            steps: Steps to take, of a surrogate; ``None``: all.

        Returns:
            Images like ``x``, about in [-1, 1]; differentiable.
        """

    @abstractmethod
    def settings(self) -> dict:
        """Return what a report names beside class, gradient and noise, as JSON."""

    def describe(self) -> dict:
        """Return what a report must name, as ``evaluation.shield.Shield`` takes it."""
        settings = self.settings()
        if self.surrogate_steps is not None:
            settings['surrogate_steps'] = self.surrogate_steps
        if self.noise == 'fixed':
            settings['noise_seed'] = self.noise_seed
        if self.condition is not None:
            settings['condition'] = self.condition
        source = self.source['source']
        return {
            'kind': type(self).__name__,
            'gradient': self.gradient,
            'noise': self.noise,
            'prior': 'random weights' if isinstance(source, dict) else str(source),
            'settings': settings,
        }

    def train(self, mode: bool = True) -> 'Purifier':
        """Stay in eval mode: the prior is frozen."""
        return super().train(False)

    def forward(self, x: Tensor, sample: int = 0) -> Tensor:
        """Purify images of one size.

        Args:
            x: Images, (N, 3, H, W), RGB in [-1, 1].
            sample: Number of the sample: with fixed noise, each has its own.

        Returns:
            Images like ``x``, clipped to [-1, 1].

        Raises:
            ValueError: If the images are too small to be continued to the stride, or
                are not in colour.
        """
        differentiated = torch.is_grad_enabled() and x.requires_grad
        if differentiated and self.gradient == 'exact':
            return self._purify(x, sample)
        slope = x
        if differentiated and self.gradient == 'surrogate':
            # Of fresh noise both begin with the same, and a test draws no other.
            devices = [x.device] if x.is_cuda else []
            with torch.random.fork_rng(devices):
                slope = self._purify(x, sample, self.surrogate_steps)
        with torch.no_grad():
            purified = self._purify(x, sample)
        # Adds 0: the values are those of an exact pass, the slope is another one's.
        return purified + (slope - slope.detach()) if differentiated else purified

    def _purify(self, x: Tensor, sample: int, steps: int | None = None) -> Tensor:
        height, width = x.shape[-2:]
        padded = continue_to(x, self.prior.total_stride)
        self.prior.check_images(padded)
        purified = self.purify(padded, sample, steps).clamp(-1, 1)
        return purified[..., :height, :width]

    def draw(self, x: Tensor, number: int, sample: int) -> Tensor:
        """Draw standard normal noise for what noise is added to, like ``x``.

        Args:
            x: Images, or latents of a latent prior, (N, C, H, W).
            number: Which of :attr:`num_noises`.
            sample: Number of the sample.

        Returns:
            One noise for each of ``x``; fixed ones are equal, of shape (1, C, H, W).
        """
        if self.noise == 'fresh':
            return torch.randn_like(x)
        # Room for 65,536 noises before two seeds share one, as the backbone has it.
        seed = (self.noise_seed << 16) + sample * self.num_noises + number
        return fixed_noise(tuple(x.shape[1:]), seed).to(x)

    def denoising_error(
        self, num_levels: int, times: Sequence[float] | None, noise_seed: int
    ) -> Callable[[Tensor], Tensor]:
        """Return what tells how badly the prior explains images, by fixed noise.

        Args:
            num_levels, times, noise_seed: See
                :class:`mmdiff.diffusion.DenoisingError`.

        Returns:
            A function of images of one size, (N, 3, H, W), RGB in [-1, 1]: (N,).

        Raises:
            ValueError: If the prior has no such noise levels.
        """
        error = DenoisingError.of(
            self.prior, num_levels, times, noise_seed, self.condition
        )
        return lambda x: error(continue_to(x, self.prior.total_stride))

    def classes(self, x: Tensor) -> Tensor | None:
        """Return the class asked of the prior for each of ``x``; ``None`` of none."""
        if self.condition is None:
            return None
        return torch.full((len(x),), self.condition, device=x.device)


def check_steps(steps: int) -> None:
    """Complain about a number of steps that there cannot be.

    Raises:
        ValueError: If so.
    """
    whole = isinstance(steps, Integral) and not isinstance(steps, bool)
    if not whole or steps < 1:
        raise ValueError(f'steps={steps!r} must be a whole number of at least 1.')


def continue_to(x: Tensor, stride: int) -> Tensor:
    """Continue images by reflection until their sides divide by a stride.

    Pixels keep their places: what is added is on the right and below.

    Args:
        x: Images, (N, C, H, W).
        stride: The stride.

    Raises:
        ValueError: If a side is too short to be reflected so far.

    Example:
        >>> continue_to(torch.arange(3.0).view(1, 1, 1, 3).expand(1, 1, 2, 3), 2)[0, 0]
        tensor([[0., 1., 2., 1.],
                [0., 1., 2., 1.]])
    """
    for axis in (-2, -1):
        side = x.shape[axis]
        missing = -side % stride
        if missing >= side:
            raise ValueError(
                f'An image of {x.shape[-2]}x{x.shape[-1]} is too small to be continued '
                f'to the stride {stride} of the prior; give images of at least '
                f'{stride // 2 + 1} pixels a side, or a prior of a smaller stride.'
            )
        # Joined rather than padded: that has a deterministic gradient on all devices.
        mirrored = x.narrow(axis, side - 1 - missing, missing).flip(axis)
        x = torch.cat([x, mirrored], axis) if missing else x
    return x
