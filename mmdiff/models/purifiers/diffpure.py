"""Noise, and the way back in several steps."""

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmdiff.diffusion import DiffusionModel
from mmdiff.diffusion.sampling import reverse_step
from mmdiff.diffusion.schedule import karras_sigmas
from mmdiff.registry import MODELS

from ..priors import chosen_time
from .base import Purifier, check_steps

SAMPLERS = ('ancestral', 'ddim')


@MODELS.register_module()
class DiffPure(Purifier):
    """Noise to a time t*, walk back to the image in K steps (Nie et al. 2022).

    Each step is one forward pass of the U-Net
    (:func:`~mmdiff.diffusion.sampling.reverse_step`). The exact gradient computes each
    step anew on its way back, so that its memory does not grow with K but by one image
    a step.

    Args:
        model, gradient, noise, noise_seed, condition, surrogate_steps: See
            :class:`~mmdiff.models.purifiers.base.Purifier`. The surrogate walks from
            the same noised image, in steps that are longer.
        timestep: The time t*, of a prior trained with timesteps; the paper's is a tenth
            of the schedule on CIFAR-10.
        sigma: The same of a prior trained with sigmas (EDM).
        steps: Number of steps K. With timesteps they are evenly spaced from t* to 0;
            with sigmas as EDM's sampler spaces them (Karras et al. 2022, eq. 5).
        sampler: ``'ancestral'`` draws in each step, as the paper's reverse SDE does;
            ``'ddim'`` only at the beginning.

    Raises:
        ValueError: For steps that there are not, an unknown sampler, or a wrong time;
            and see the base.

    Example:
        >>> self = DiffPure('mmdiff::toy_voc', timestep=100, steps=4)
        >>> self.times
        [100, 75, 50, 25]
    """

    def __init__(
        self,
        model: str | Path | dict,
        timestep: int | None = None,
        sigma: float | None = None,
        steps: int = 10,
        sampler: str = 'ancestral',
        gradient: str = 'exact',
        noise: str = 'fixed',
        noise_seed: int = 0,
        condition: int | None = None,
        surrogate_steps: int | None = None,
    ) -> None:
        if sampler not in SAMPLERS:
            raise ValueError(
                f'sampler={sampler!r} is unknown; choose one of {SAMPLERS}.'
            )
        check_steps(steps)
        self.steps = steps
        super().__init__(model, gradient, noise, noise_seed, condition, surrogate_steps)
        time = chosen_time(self.prior, 'DiffPure', timestep, sigma)
        self.times, self.sampler = reverse_times(self.prior, time, steps), sampler

    @property
    def num_noises(self) -> int:
        return len(self.times) if self.sampler == 'ancestral' else 1

    def settings(self) -> dict:
        return {
            self.prior.time_unit: self.times[0],
            'steps': len(self.times),
            'sampler': self.sampler,
        }

    def purify(self, x: Tensor, sample: int, steps: int | None = None) -> Tensor:
        prior, times = self.prior, self.times
        if steps is not None:
            times = reverse_times(prior, times[0], steps)
        x0 = prior.encode(x)
        x_t = prior.add_noise(x0, times[0], self.draw(x0, 0, sample))
        last = len(times) - 1
        for k in range(len(times)):
            noise = None
            if self.sampler == 'ancestral' and k < last:
                # Drawn here: what is computed anew must not draw anew.
                noise = self.draw(x0, k + 1, sample)
            x_t = checkpoint(
                self._step,
                x_t,
                noise,
                times[k : k + 2],
                use_reentrant=False,
                preserve_rng_state=False,
            )
        return prior.decode(x_t)

    def _step(self, x_t: Tensor, noise: Tensor | None, times: list) -> Tensor:
        """Go from the first of two times to the second; from one, to the image."""
        prior = self.prior
        x0 = prior.predict_x0(x_t, times[0], self.classes(x_t))
        if len(times) == 1:
            return x0
        here = prior.signal_and_noise(times[0], x_t)
        there = prior.signal_and_noise(times[1], x_t)
        return reverse_step(x_t, x0, here, there, noise)


def reverse_times(prior: DiffusionModel, time: float, steps: int) -> list:
    """Times of the steps from a time back to the image, falling, (K,).

    Args:
        prior: The prior.
        time: Where they begin: a timestep, or a sigma.
        steps: Their number K.

    Raises:
        ValueError: If there are not so many times.
    """
    check_steps(steps)
    if prior.time_unit == 'timestep':
        if steps > max(time, 1):
            raise ValueError(
                f'steps={steps} are more than the {max(time, 1)} timesteps from '
                f'{time} to 0; give a larger timestep or fewer steps.'
            )
        evenly = torch.linspace(time, 0, steps + 1, dtype=torch.float64)
        return [int(t) for t in evenly.round()[:-1]]
    low = max(prior.time_range[0], 0.002)  # where EDM's sampler ends
    if steps > 1 and time <= low:
        raise ValueError(
            f'steps={steps} need a sigma above {low}, where the last of them is; '
            f'sigma={time} has room for one.'
        )
    return karras_sigmas(steps, low, time).tolist()
