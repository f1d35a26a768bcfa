"""One noise, one prediction of the clean image."""

from pathlib import Path

from torch import Tensor

from mmdiff.diffusion.levels import equivalent_sigma
from mmdiff.registry import MODELS

from ..priors import chosen_time
from .base import Purifier, continue_to


@MODELS.register_module()
class OneStepDenoiser(Purifier):
    """Noise to one time, predict the image: one forward pass of the U-Net.

    ``x_t = alpha_t x + sigma_t eps``, and out comes the prior's estimate of ``x_0``
    (Carlini et al. 2023, "(Certified!!) adversarial robustness for free!", Algorithm
    2). What counts is ``sigma_t / alpha_t``, in units of images in [-1, 1].

    Args:
        model, gradient, noise, noise_seed, condition: See
            :class:`~mmdiff.models.purifiers.base.Purifier`.
        timestep: DDPM timestep of a prior trained with timesteps.
        sigma: Noise level of a prior trained with sigmas (EDM).

    Raises:
        ValueError: If of ``timestep`` and ``sigma`` anything is given but the one that
            the prior has, or it is out of range; and see the base.

    Example:
        >>> import torch
        >>> self = OneStepDenoiser('mmdiff::toy_voc', timestep=50)
        >>> self(torch.zeros(1, 3, 60, 64)).shape
        torch.Size([1, 3, 60, 64])
    """

    num_noises = 1

    def __init__(
        self,
        model: str | Path | dict,
        timestep: int | None = None,
        sigma: float | None = None,
        gradient: str = 'exact',
        noise: str = 'fixed',
        noise_seed: int = 0,
        condition: int | None = None,
    ) -> None:
        super().__init__(model, gradient, noise, noise_seed, condition)
        self.time = chosen_time(self.prior, 'OneStepDenoiser', timestep, sigma)

    def settings(self) -> dict:
        return {self.prior.time_unit: self.time}

    def purify(self, x: Tensor, sample: int, steps: int | None = None) -> Tensor:
        prior = self.prior
        x0 = prior.encode(x)
        x_t = prior.add_noise(x0, self.time, self.draw(x0, 0, sample))
        return prior.decode(prior.predict_x0(x_t, self.time, self.classes(x0)))

    @property
    def noise_level(self) -> float:
        """The noise that it removes, ``sigma_t / alpha_t``, of images in [-1, 1]."""
        return equivalent_sigma(self.prior, self.time)

    def remove_noise(self, noisy: Tensor) -> Tensor:
        """Estimate images from what others added the noise to.

        Nothing is drawn: :meth:`forward` without its noise.

        Args:
            noisy: Images plus noise of the standard deviation :attr:`noise_level`,
                (N, 3, H, W), RGB, about in [-1, 1]; of any size, continued as in
                :meth:`forward`.

        Returns:
            Images like ``noisy``, clipped to [-1, 1].

        Raises:
            ValueError: If the images are too small to be continued to the stride, or
                are not in colour.
        """
        height, width = noisy.shape[-2:]
        x = continue_to(noisy, self.prior.total_stride)
        self.prior.check_images(x)
        alpha, _ = self.prior.signal_and_noise(self.time, x)
        x_t = (alpha * x).to(x.dtype)
        x0 = self.prior.predict_x0(x_t, self.time, self.classes(x))
        return x0.clamp(-1, 1)[..., :height, :width]
