"""The interface of a diffusion prior: denoiser and noise schedule as one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .features import FeatureInfo, resolve_taps
from .loading import Loadable
from .predictions import noise_from, target_of, x0_from
from .sampling import Generators, Request


class DiffusionModel(Loadable):
    """A denoiser with its noise schedule; the kinds of priors are its subclasses.

    Images are RGB in [-1, 1], of shape (N, 3, H, W). ``x_t = alpha_t x_0 + sigma_t
    eps`` is a noised image at the time t, an integer timestep (DDPM) or a noise level
    sigma (EDM): ``time_unit`` says which. :meth:`from_pretrained` returns the class
    that a source needs: :class:`DDPMDiffusionModel`, :class:`EDMDiffusionModel` or
    :class:`LatentDiffusionModel`.

    Attributes:
        time_unit: ``'timestep'`` or ``'sigma'``.
        default_steps: Number of steps that :meth:`sample` takes if none is given.
        encoder_stride: Pixels of the image per pixel of what noise is added to.
        patch_size: The network sees ``pixel_unshuffle(x, patch_size)``.
        total_stride: What H and W of an image must divide by.
        truncated: Whether the model gives features only (:meth:`truncate`).

    Args:
        unet: The denoising network.
        feature_info: Its taps, in the order of execution.

    Example:
        >>> model = DiffusionModel.from_pretrained('mmdiff::toy_voc')
        >>> x_t = model.add_noise(torch.zeros(1, 3, 64, 64), 10, torch.zeros(()))
        >>> model.features(x_t, 10, ['mid'])['mid'].shape
        torch.Size([1, 128, 2, 2])
    """

    time_unit: str
    default_steps: int
    encoder_stride: int = 1
    patch_size: int = 1

    def __init__(self, unet: nn.Module, feature_info: list[FeatureInfo]) -> None:
        super().__init__()
        self.unet = unet
        self.feature_info = feature_info
        # So that every downsampler halves evenly.
        self.total_stride = max(info.stride for info in feature_info)
        self.truncated = False

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int]:
        """Height and width in pixels of the images that the prior was trained on.

        Raises:
            ValueError: If the prior does not say.
        """

    @property
    def image_size(self) -> int:
        """Longer side in pixels of the images that the prior was trained on."""
        return max(self.image_shape)

    @property
    @abstractmethod
    def noise_channels(self) -> int:
        """Channels of what noise is added to: 3, or those of the latents."""

    @property
    def num_classes(self) -> int:
        """Classes of a class-conditional prior (without "no class"), or 0."""
        return 0

    @property
    def null_class(self) -> int | None:
        """Label that stands for "no class" in a prior trained with label dropout."""
        return None

    def check_condition(self, label: int | None = None) -> None:
        """Complain about a class that the prior does not have, or a missing one.

        Args:
            label: The class; ``None`` is none.

        Raises:
            ValueError: If it is out of range, missing or superfluous.
        """
        count = self.num_classes + (self.null_class is not None)
        if label is None and self.needs_condition:
            raise ValueError(
                'This prior is class-conditional: give a class (condition=...)'
                + (f', 0 to {count - 1}.' if count else '.')
            )
        if label is not None and not (count or self.needs_condition):
            raise ValueError('This prior is unconditional: leave the condition out.')
        if label is not None and count and not 0 <= label < count:
            raise ValueError(
                f'condition={label} is out of range; this prior has the classes 0 to '
                f'{count - 1}.'
            )

    @property
    def needs_condition(self) -> bool:
        """Whether nothing can be predicted without a class."""
        return False

    def check_size(self, height: int, width: int) -> None:
        """Complain about an image that the U-Net cannot downsample evenly.

        Raises:
            ValueError: If H or W do not divide by ``total_stride``.
        """
        if height % self.total_stride or width % self.total_stride:
            raise ValueError(
                f'An input of {height}x{width} does not divide by the stride '
                f'{self.total_stride} of the U-Net; set '
                f'data_preprocessor.pad_size_divisor={self.total_stride}.'
            )

    def check_images(self, x: Tensor) -> None:
        """Complain about images that the prior does not take.

        Noise would be broadcast over one of grey, which would go unseen.

        Args:
            x: Images, to be (N, 3, H, W).

        Raises:
            ValueError: If there is another number of channels, or :meth:`check_size`.
        """
        needed = 3 if self.encoder_stride > 1 else self.noise_channels
        if x.ndim != 4 or x.shape[1] != needed:
            raise ValueError(
                f'Images of the shape {tuple(x.shape)} are not (N, {needed}, H, W), as '
                'this prior takes them; load them in colour (LoadImageFromFile does), '
                'with three values of mean and std in the data_preprocessor.'
            )
        self.check_size(*x.shape[-2:])

    def check_whole(self) -> None:
        """Complain if blocks were deleted.

        Raises:
            RuntimeError: If :meth:`truncate` was called.
        """
        if self.truncated:
            raise RuntimeError(
                'This prior was truncated to its taps and predicts no more; load it '
                'again with DiffusionModel.from_pretrained.'
            )

    @property
    @abstractmethod
    def time_range(self) -> tuple[float, float]:
        """Smallest time (almost clean) and largest (almost noise)."""

    @property
    @abstractmethod
    def middle_time(self) -> float:
        """Time that divides low noise from high noise in training logs."""

    @abstractmethod
    def sample_times(self, count: int, device: torch.device | str = 'cpu') -> Tensor:
        """Draw random times for training, (count,)."""

    @abstractmethod
    def level_times(self, count: int) -> list[float]:
        """Return times from low to high noise to measure a held-out loss at."""

    @abstractmethod
    def signal_and_noise(self, t: float | Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scales alpha_t of the image and sigma_t of the noise in ``x_t``.

        Args:
            t: One time or (N,).
            x: Images, (N, C, H, W), that the scales are to broadcast over.
        """

    @abstractmethod
    def check_time(self, time: float) -> None:
        """Raise ValueError for a time that the prior was not trained for."""

    def add_noise(self, x0: Tensor, t: float | Tensor, noise: Tensor) -> Tensor:
        """Return ``x_t = alpha_t x_0 + sigma_t noise``; t is one time or (N,)."""
        alpha, sigma = self.signal_and_noise(t, x0)
        return (alpha * x0 + sigma * noise).to(
            torch.promote_types(x0.dtype, noise.dtype)
        )

    def _times(self, t: float | Tensor, x: Tensor) -> Tensor:
        """Give every image of ``x`` its time, (N,)."""
        return torch.as_tensor(t, device=x.device).expand(len(x))

    def resolve_taps(self, taps: Sequence[str | int]) -> list[FeatureInfo]:
        """Turn names or indices (negatives count from the end) into taps.

        Raises:
            ValueError: If the network does not have a name or an index.
        """
        return resolve_taps(self.feature_info, taps)

    def encode(self, x: Tensor) -> Tensor:
        """Turn images (N, 3, H, W) into what noise is added to: here they are it."""
        return x

    def decode(self, x0: Tensor) -> Tensor:
        """Return the images that :meth:`encode` gives ``x0`` for."""
        return x0

    def features(
        self,
        x_t: Tensor,
        t: float | Tensor,
        taps: Sequence[str | int],
        cond: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Run the U-Net up to the deepest tap and return the tapped outputs.

        Args:
            x_t: Noised images in the range of the prior, (N, 3, H, W).
            t: Timestep (or sigma), one or (N,).
            taps: Names or indices into ``feature_info``.
            cond: Classes, (N,), of a class-conditional prior.

        Returns:
            ``{name: (N, channels, H / stride, W / stride)}`` in the order asked for.

        Raises:
            ValueError: If H or W do not divide by ``total_stride``, a tap is unknown,
                or ``cond`` is missing or superfluous.
        """
        names = [info.name for info in self.resolve_taps(taps)]
        outputs = self._tap_outputs(x_t, self._times(t, x_t), cond, names)
        return {name: output.to(x_t.dtype) for name, output in outputs.items()}

    @abstractmethod
    def _tap_outputs(
        self, x_t: Tensor, t: Tensor, cond: Tensor | None, names: list[str]
    ) -> dict[str, Tensor]:
        """Return the outputs of the taps ``names``, in the network's precision."""

    def truncate(self, taps: Sequence[str | int]) -> None:
        """Delete every block past the deepest of ``taps``; predictions end here.

        This frees memory, and leaves DDP no block without a gradient.
        """
        names = [info.name for info in self.resolve_taps(taps)]
        order = [info.name for info in self.feature_info]
        self.feature_info = self._truncate(max(names, key=order.index))
        self.truncated = True

    @abstractmethod
    def _truncate(self, deepest: str) -> list[FeatureInfo]:
        """Delete what runs after the tap ``deepest``; return the taps that are left."""

    @abstractmethod
    def enable_gradient_checkpointing(self) -> None:
        """Keep no activations inside blocks: less memory, more time."""

    @property
    @abstractmethod
    def prediction_type(self) -> str:
        """What the network predicts: ``epsilon``, ``v_prediction`` or ``sample``."""

    def predict(
        self, x_t: Tensor, t: float | Tensor, cond: Tensor | None = None
    ) -> Tensor:
        """Return the network's raw output (noise, v or x_0, by ``prediction_type``).

        Arguments as :meth:`features`; the result is like ``x_t``.
        """
        self.check_whole()
        return self._predict(x_t, self._times(t, x_t), cond).to(x_t.dtype)

    @abstractmethod
    def _predict(self, x_t: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        """Return the network's output for times (N,), without a learned variance."""

    def predict_noise(
        self, x_t: Tensor, t: float | Tensor, cond: Tensor | None = None
    ) -> Tensor:
        """Estimate the noise in ``x_t``, whatever the network predicts."""
        out, scales = self.predict(x_t, t, cond), self.signal_and_noise(t, x_t)
        return noise_from(self.prediction_type, out, x_t, *scales).to(x_t.dtype)

    def predict_x0(
        self, x_t: Tensor, t: float | Tensor, cond: Tensor | None = None
    ) -> Tensor:
        """Estimate the clean image, whatever the network predicts."""
        out, scales = self.predict(x_t, t, cond), self.signal_and_noise(t, x_t)
        return x0_from(self.prediction_type, out, x_t, *scales).to(x_t.dtype)

    def diffusion_loss(
        self, x0: Tensor, t: Tensor, noise: Tensor, cond: Tensor | None = None
    ) -> Tensor:
        """Return the mean squared error of the network's own prediction, (N,).

        Args:
            x0: Images, (N, 3, H, W) in [-1, 1] (latents of a latent prior).
            t: Times, (N,).
            noise: Standard normal noise, like ``x0``.
            cond: Classes, (N,), of a class-conditional prior.
        """
        out = self.predict(self.add_noise(x0, t, noise), t, cond)
        scales = self.signal_and_noise(t, x0)
        target = target_of(self.prediction_type, x0, noise, *scales)
        return (out.float() - target).square().flatten(1).mean(1)

    def sample(
        self,
        shape: tuple[int, int, int],
        steps: int | None = None,
        generator: Generators = None,
        cond: Tensor | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """Draw images.

        Args:
            shape: (N, H, W).
            steps: Number of denoising steps; ``None`` is ``default_steps``.
            generator: Source of the starting noise; a list gives one to each image.
            cond: Classes, (N,), of a class-conditional prior.
            guidance: Weight of classifier-free guidance (Ho and Salimans 2022), for
                priors trained with label dropout; 1 is none.

        Returns:
            (N, 3, H, W), clipped to [-1, 1].
        """
        steps = self.default_steps if steps is None else steps
        if steps < 1:
            raise ValueError(f'steps={steps} must be at least 1.')
        return self._sample(Request(shape, steps, generator, cond, guidance))

    @abstractmethod
    def _sample(self, request: Request) -> Tensor:
        """Draw images by the sampler of this kind of prior."""
