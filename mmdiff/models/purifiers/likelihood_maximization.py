"""Climb to an image that the prior explains better."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmdiff.diffusion import DiffusionModel
from mmdiff.diffusion.likelihood import denoising_errors
from mmdiff.diffusion.schedule import sigma_to_timestep
from mmdiff.registry import MODELS
from mmdiff.utils.seeding import mix_seed

from ..priors import chosen_time
from .base import Purifier, check_steps

OPTIMIZERS = ('momentum', 'adam')
# Noise levels of the paper, in units of images in [-1, 1].
SIGMAS = (0.4, 0.6)
BETAS = (0.9, 0.999)
# Image, first moment, second moment (of Adam; else it stays 0).
State = tuple[Tensor, Tensor, Tensor]


@MODELS.register_module()
class LikelihoodMaximization(Purifier):
    """Descend the denoising error of an unconditional prior, from the image on.

    In each of N steps one noise and one time give the gradient g of
    ``w_t |eps_theta(x_t, t) - eps|^2``. As published (Chen et al. 2024, "Robust
    Classification via a Single Diffusion Model", Algorithm 1):
    ``m <- mu m - g / |g|_1``, ``x <- clip_{x_0, eta}(x + gamma m)``. As in the released
    code: Adam without a budget, from a fixed seed; that is ``optimizer='adam'``,
    ``eta=None``, ``noise_seed=1`` (its squared error of ``x_0`` is the one of the noise
    times ``(sigma_t / alpha_t)^2``).

    The exact gradient is one of the second order. It walks back step by step, and
    computes each anew, so that its memory does not grow with N but by the state of the
    optimizer.

    Args:
        model, gradient, noise, noise_seed, condition, surrogate_steps: See
            :class:`~mmdiff.models.purifiers.base.Purifier`. The surrogate takes the
            first steps and no more.
        timestep: Lowest and highest DDPM timestep, of a prior trained with timesteps;
            times are uniform between them. Without it they are those where
            ``sigma / alpha`` is 0.4 and 0.6.
        sigma: The same of a prior trained with sigmas (EDM); by default 0.4 and 0.6.
        steps: Number of steps N.
        optimizer: ``'momentum'`` or ``'adam'``.
        step_size: Step gamma, or Adam's learning rate, for images in [-1, 1].
        eta: Largest change of a value, in pixel units (8 is 8/255); ``None``: any.
        momentum: Momentum mu; of Adam there are none but its own.
        l1: Whether ``|g|_1`` is the ``'mean'`` over the values of an image, or their
            ``'sum'``. The paper's text does not tell; with the sum a step of 0.1 moves
            an image of 32 pixels by 3e-5 a value.

    Raises:
        ValueError: For a number of steps, an optimizer, a step or a budget that there
            is not, or a wrong time; and see the base.

    Example:
        >>> self = LikelihoodMaximization('mmdiff::toy_voc', steps=1)
        >>> change = self(torch.zeros(1, 3, 32, 32)).abs().max()
        >>> 0 < change <= 8 / 127.5 + 1e-6
        tensor(True)
    """

    steps: int

    def __init__(
        self,
        model: str | Path | dict,
        timestep: tuple[int, int] | None = None,
        sigma: tuple[float, float] | None = None,
        steps: int = 5,
        optimizer: str = 'momentum',
        step_size: float = 0.1,
        eta: float | None = 8,
        momentum: float = 1.0,
        l1: str = 'mean',
        gradient: str = 'exact',
        noise: str = 'fixed',
        noise_seed: int = 0,
        condition: int | None = None,
        surrogate_steps: int | None = None,
    ) -> None:
        _check(steps, optimizer, step_size, eta, l1)
        self.steps = steps
        super().__init__(model, gradient, noise, noise_seed, condition, surrogate_steps)
        self.times = time_range(self.prior, timestep, sigma)
        self.optimizer, self.step_size = optimizer, step_size
        self.eta, self.momentum, self.l1 = eta, momentum, l1

    @property
    def num_noises(self) -> int:
        return self.steps

    def settings(self) -> dict:
        settings = {
            self.prior.time_unit: list(self.times),
            'steps': self.steps,
            'optimizer': self.optimizer,
            'step_size': self.step_size,
            'eta': self.eta,
        }
        if self.optimizer == 'momentum':
            settings.update(momentum=self.momentum, l1=self.l1)
        return settings

    def purify(self, x: Tensor, sample: int, steps: int | None = None) -> Tensor:
        state = (x, torch.zeros_like(x), torch.zeros_like(x))
        for n in range(self.steps if steps is None else steps):
            noise = self.draw(self._noised_like(x), n, sample)
            times = self._draw_times(x, n, sample)
            step = _Step(self, n, times, noise)
            state = _Recomputed.apply(step, x, *state)
        return state[0]

    def _noised_like(self, x: Tensor) -> Tensor:
        """Return an empty tensor like what noise is added to."""
        stride = self.prior.encoder_stride
        height, width = (side // stride for side in x.shape[-2:])
        return x.new_empty(len(x), self.prior.noise_channels, height, width)

    def _draw_times(self, x: Tensor, n: int, sample: int) -> Tensor:
        """Draw the times of a step, (N, 1): fixed ones are equal."""
        if self.noise == 'fresh':
            share = torch.rand(len(x), 1)
        else:
            seed = mix_seed(self.noise_seed, 'time', sample, n)
            generator = torch.Generator().manual_seed(seed)
            share = torch.rand(1, 1, generator=generator).expand(len(x), 1)
        low, high = self.times
        times = low + share * (high - low)
        whole = self.prior.time_unit == 'timestep'
        return times.round().long() if whole else times

    def move(self, step: '_Step', origin: Tensor, *state: Tensor) -> State:
        """Take one step, differentiably to the second order.

        Args:
            step: Which step, with its noise and times.
            origin: The image that the budget is around.
            *state: Image and moments.
        """
        x, first, second = state
        with twice_differentiable():
            error = self._error(x, step).sum()
        (slope,) = torch.autograd.grad(error, x, create_graph=True)
        if self.optimizer == 'adam':
            x, first, second = self._adam(x, slope, first, second, step.number)
        else:
            size = slope.abs().flatten(1)
            size = size.mean(1) if self.l1 == 'mean' else size.sum(1)
            slope = slope / size.clamp(min=1e-30).view(-1, 1, 1, 1)
            first = self.momentum * first - slope
            x = x + self.step_size * first
        if self.eta is not None:
            radius = self.eta / 127.5
            x = torch.minimum(torch.maximum(x, origin - radius), origin + radius)
        return x, first, second

    def _error(self, x: Tensor, step: '_Step') -> Tensor:
        """Mean squared error of the predicted image, (N,)."""
        latent = self.prior.encode(x)
        noise = step.noise.expand_as(latent).unsqueeze(1)
        errors = denoising_errors(
            self.prior, latent, step.times, noise, self.classes(x), len(x)
        )
        alpha, sigma = self.prior.signal_and_noise(step.times[:, 0], latent)
        weights = (sigma / alpha).square().view(-1, 1)
        return (weights * errors).squeeze(1)

    def _adam(
        self, x: Tensor, slope: Tensor, first: Tensor, second: Tensor, number: int
    ) -> State:
        """Take a step of Adam (Kingma and Ba 2015, Algorithm 1)."""
        first = BETAS[0] * first + (1 - BETAS[0]) * slope
        second = BETAS[1] * second + (1 - BETAS[1]) * slope.square()
        mean = first / (1 - BETAS[0] ** (number + 1))
        # Its epsilon is within the root, which else has no slope at 0.
        size = (second / (1 - BETAS[1] ** (number + 1)) + 1e-16).sqrt()
        return x - self.step_size * mean / size, first, second


class _Step:
    """One step of a maximisation, which can be computed again.

    Args:
        owner: The purifier.
        number: Number of the step, from 0.
        times: Times, (N, 1).
        noise: Noise, (N or 1, C, H, W).
    """

    def __init__(
        self, owner: LikelihoodMaximization, number: int, times: Tensor, noise: Tensor
    ) -> None:
        self.owner, self.number = owner, number
        self.times, self.noise = times, noise

    def __call__(self, origin: Tensor, *state: Tensor) -> State:
        return self.owner.move(self, origin, *state)


class _Recomputed(torch.autograd.Function):
    """A step whose graph is not kept, but made again to go back through it.

    torch's checkpoints do not allow a step that takes a gradient itself.
    """

    @staticmethod
    def forward(ctx: Any, step: Callable, *tensors: Tensor) -> State:
        ctx.step = step
        ctx.save_for_backward(*tensors)
        with torch.inference_mode(False), torch.enable_grad():
            outputs = step(*_leaves(tensors))
        # Copied: a detached tensor would keep the graph of what it is a view of.
        return tuple(output.detach() for output in outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple:
        with torch.enable_grad():
            leaves = _leaves(ctx.saved_tensors)
            outputs = ctx.step(*leaves)
            pairs = [(o, g) for o, g in zip(outputs, grads) if o.requires_grad]
            kept, weights = zip(*pairs)
            back = torch.autograd.grad(kept, leaves, weights, allow_unused=True)
        return None, *back


def twice_differentiable() -> AbstractContextManager:
    """Keep attention from kernels that have no gradient of the second order."""
    if hasattr(torch.nn, 'attention'):  # from torch 2.3 on
        from torch.nn.attention import SDPBackend, sdpa_kernel

        return sdpa_kernel(SDPBackend.MATH)
    return torch.backends.cuda.sdp_kernel(
        enable_flash=False, enable_math=True, enable_mem_efficient=False
    )


def _leaves(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """Copy tensors, as the beginnings of a graph."""
    return [tensor.detach().clone().requires_grad_() for tensor in tensors]


def time_range(
    prior: DiffusionModel, timestep: tuple | None, sigma: tuple | None
) -> tuple[float, float]:
    """Lowest and highest time, in the unit of a prior.

    Args:
        prior: The prior.
        timestep: Lowest and highest timestep; or ``None``.
        sigma: Lowest and highest sigma; or ``None``. Without both, the paper's.

    Raises:
        ValueError: If they are not two, or not the prior's.
    """
    if timestep is None and sigma is None:
        if prior.time_unit == 'sigma':
            return SIGMAS
        nearest = sigma_to_timestep(prior.alphas_cumprod.cpu(), torch.tensor(SIGMAS))
        low, high = nearest.round().long().tolist()
        return low, high
    for name, pair in (('timestep', timestep), ('sigma', sigma)):
        is_pair = isinstance(pair, tuple | list) and len(pair) == 2
        if pair is not None and not (is_pair and pair[0] <= pair[1]):
            raise ValueError(
                f'{name}={pair!r} must be the lowest and the highest of the times.'
            )
    ends = [
        chosen_time(
            prior,
            'LikelihoodMaximization',
            None if timestep is None else timestep[k],
            None if sigma is None else sigma[k],
        )
        for k in range(2)
    ]
    return ends[0], ends[1]


def _check(
    steps: int, optimizer: str, step_size: float, eta: float | None, l1: str
) -> None:
    """Complain about settings that make no sense.

    Raises:
        ValueError: If so.
    """
    check_steps(steps)
    if optimizer not in OPTIMIZERS:
        raise ValueError(
            f'optimizer={optimizer!r} is unknown; choose one of {OPTIMIZERS}.'
        )
    if not 0 < step_size < math.inf:
        raise ValueError(f'step_size={step_size} must be a number above 0.')
    if eta is not None and not eta > 0:
        raise ValueError(f'eta={eta} must be above 0, in pixel units, or None.')
    if l1 not in ('mean', 'sum'):
        raise ValueError(f"l1={l1!r} must be 'mean' or 'sum'.")
