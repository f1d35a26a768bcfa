"""A diffusion prior: denoiser and noise schedule behind one interface."""

import hashlib

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor, nn

from .loading import read_prior
from .sampling import Generators, sample_ddim
from .tapped_unet import TappedUNet
from .taps import describe_taps

PREDICTIONS = ('epsilon', 'v_prediction', 'sample')


class DiffusionModel(TappedUNet):
    """Pixel diffusion U-Net with its noise schedule; the base of the other kinds.

    Images are RGB in [-1, 1], of shape (N, 3, H, W). Time is DDPM's integer timestep,
    0 (almost clean) to ``num_train_timesteps - 1`` (almost noise). The subclasses
    :class:`EDMDiffusionModel` (time is a noise level sigma) and
    :class:`LatentDiffusionModel` (a VAE in front) keep to the same interface;
    :meth:`from_pretrained` returns the class that a source needs.

    Taps are named after diffusers' blocks: ``down.0``, ``mid``, ``up.1`` for the output
    of a block (past its down- or upsampler), ``up.1.0`` for that of its first layer.

    Args:
        unet: The denoiser. Its ``in_channels`` are 3 times ``patch_size ** 2``.
        scheduler: Holder of alpha_bar and of the kind of prediction.
        patch_size: The U-Net sees ``pixel_unshuffle(x, patch_size)``. ``None`` reads
            it off ``in_channels`` (3: 1, 12: 2, 48: 4, ...).

    Raises:
        ValueError: If the U-Net's channels are not those of RGB images.

    Example:
        >>> source = dict(type='UNet2DModel', block_out_channels=(4, 8),
        ...     down_block_types=('DownBlock2D', 'DownBlock2D'), sample_size=32,
        ...     up_block_types=('UpBlock2D', 'UpBlock2D'), norm_num_groups=2)
        >>> model = DiffusionModel.from_pretrained(source)
        >>> x = torch.zeros(1, 3, 32, 32)
        >>> {k: tuple(v.shape) for k, v in model.features(x, 10, ['mid']).items()}
        {'mid': (1, 8, 16, 16)}
    """

    time_unit = 'timestep'

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: DDPMScheduler,
        patch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.unet = unet
        self.scheduler = scheduler
        if self.prediction_type not in PREDICTIONS:
            raise ValueError(
                f'prediction_type={self.prediction_type!r} is unknown; the noise '
                f'schedule must name one of {PREDICTIONS}.'
            )
        self.patch_size = self._infer_patch_size(unet, patch_size)
        self.register_buffer(
            'alphas_cumprod', scheduler.alphas_cumprod.clone(), persistent=False
        )
        self._set_taps(describe_taps(unet, self.patch_size * self.encoder_stride))

    @staticmethod
    def _infer_patch_size(unet: UNet2DModel, patch_size: int | None) -> int:
        channels = unet.config.in_channels
        inferred = round((channels / 3) ** 0.5)
        if inferred < 1 or 3 * inferred**2 != channels:
            raise ValueError(
                f'The U-Net has in_channels={channels}; a prior of RGB images has '
                '3 * patch_size**2 (3, 12, 48, ...).'
            )
        if patch_size not in (None, inferred):
            raise ValueError(
                f'patch_size={patch_size} needs in_channels={3 * patch_size**2}, the '
                f'U-Net has {channels}: leave patch_size out, it is {inferred}.'
            )
        if unet.config.out_channels not in (channels, 2 * channels):
            raise ValueError(
                f'The U-Net has in_channels={channels} and out_channels='
                f'{unet.config.out_channels}; a denoiser gives back {channels}, or '
                f'{2 * channels} with learned variance.'
            )
        return inferred

    @classmethod
    def from_pretrained(
        cls,
        source: str | dict,
        schedule: dict | None = None,
        patch_size: int | None = None,
        cache_dir: str | None = None,
        random_weights: bool = False,
        dtype: str | None = None,
        **latent_args,
    ) -> 'DiffusionModel':
        """Load a prior of any kind.

        Args:
            source: ``mmdiff::NAME`` (shipped), a diffusers folder (pixel or latent), a
                folder written by ``tools/convert_checkpoint.py``, a hub id, or a config
                with random weights: ``dict(type='UNet2DModel', ...)``,
                ``dict(type='EDMPrecond', ...)``,
                ``dict(type='LatentDiffusion', unet=dict(...), vae=dict(...))``.
            schedule: Arguments of ``DDPMScheduler``; ``None`` reads the schedule that
                lies beside the weights (DDPM's linear one for random weights).
            patch_size: See the class.
            cache_dir: Where hub files and prompt embeddings are kept.
            random_weights: Take the network of ``source`` but not its weights, for a
                baseline from scratch.
            dtype: ``'bfloat16'`` runs the network in it; inputs, features and
                predictions stay fp32.
            **latent_args: ``prompt`` and ``latent`` of :class:`LatentDiffusionModel`.

        Raises:
            FileNotFoundError: Nothing there, or the hub cannot be reached.
            ValueError: Damaged weights, another architecture, a bad schedule.
        """
        parts = read_prior(source, schedule, cache_dir, random_weights)
        if patch_size not in (None, 1) and parts.kind != 'pixel':
            raise ValueError(
                f'patch_size={patch_size} belongs to a pixel U-Net; leave it out.'
            )
        if parts.kind == 'latent':
            from .latent_diffusion_model import LatentDiffusionModel

            model = LatentDiffusionModel(
                parts.unet, parts.scheduler, parts.vae, parts.text, **latent_args
            )
        elif latent_args:
            raise ValueError(
                f'{", ".join(latent_args)} belongs to a latent prior (Stable '
                'Diffusion); this one has no prompt and no VAE: leave it out.'
            )
        elif parts.kind == 'edm':
            from .edm_diffusion_model import EDMDiffusionModel

            model = EDMDiffusionModel(parts.unet)
        else:
            model = DiffusionModel(parts.unet, parts.scheduler, patch_size)
        if dtype is not None:
            # Not the schedule: it stays exact. Past the warning of diffusers' own to().
            for part in model.children():
                nn.Module.to(part, getattr(torch, dtype))
        return model

    @property
    def num_train_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    @property
    def num_classes(self) -> int:
        """Classes of a class-conditional prior (without "no class"), or 0."""
        count = self.unet.config.get('num_class_embeds') or 0
        return count - (self.null_class is not None)

    @property
    def null_class(self) -> int | None:
        """Label that stands for "no class" in a prior trained with label dropout."""
        return self.unet.config.get('null_class')

    @property
    def noise_channels(self) -> int:
        """Channels of what noise is added to: 3, or those of the latents."""
        return self.unet.config.in_channels // self.patch_size**2

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that the prior was trained on."""
        factor = self.patch_size * self.encoder_stride
        return factor * self.unet.config.sample_size

    @property
    def time_range(self) -> tuple[float, float]:
        """Smallest time (almost clean) and largest (almost noise)."""
        return 0, self.num_train_timesteps - 1

    def check_time(self, time: float) -> None:
        """Complain about a time that the prior was not trained for.

        Raises:
            ValueError: If it is outside ``time_range``.
        """
        low, high = self.time_range
        if not low <= time <= high:
            raise ValueError(
                f'{self.time_unit}={time} is out of range; this prior has {low} '
                f'(almost clean) to {high} (almost noise).'
            )

    def _times(self, t: float | Tensor, x: Tensor) -> Tensor:
        """One time or (N,) -> (N,)."""
        return torch.as_tensor(t, device=x.device).expand(len(x))

    def signal_and_noise(self, t: float | Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scales of image and noise in ``x_t``, to broadcast over ``x``.

        Returns:
            ``alpha_t = sqrt(alpha_bar)`` and ``sigma_t = sqrt(1 - alpha_bar)``.
        """
        alpha_bar = self.alphas_cumprod[self._times(t, x)].view(-1, 1, 1, 1).float()
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def add_noise(self, x0: Tensor, t: float | Tensor, noise: Tensor) -> Tensor:
        """``x_t = alpha_t x_0 + sigma_t noise``; t is one time or (N,)."""
        alpha, sigma = self.signal_and_noise(t, x0)
        return alpha * x0 + sigma * noise

    @property
    def prediction_type(self) -> str:
        """What the network predicts: ``epsilon``, ``v_prediction`` or ``sample``."""
        return self.scheduler.config.prediction_type

    def predict(
        self, x_t: Tensor, t: float | Tensor, cond: Tensor | None = None
    ) -> Tensor:
        """The network's raw output (noise, v or x0), without a learned variance."""
        self.check_whole()
        return self._predict(x_t, self._times(t, x_t), cond).to(x_t.dtype)

    def _predict(self, x_t: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        out = self.unet(self._network_input(x_t), t, cond, return_dict=False)[0]
        out = out[:, : self.unet.config.in_channels]
        return F.pixel_shuffle(out, self.patch_size)

    def predict_noise(
        self, x_t: Tensor, t: float | Tensor, cond: Tensor | None = None
    ) -> Tensor:
        """Estimate of the noise in ``x_t``, whatever the network predicts."""
        out = self.predict(x_t, t, cond)
        alpha, sigma = self.signal_and_noise(t, x_t)
        if self.prediction_type == 'epsilon':
            return out
        if self.prediction_type == 'v_prediction':  # v = alpha eps - sigma x0
            return alpha * out + sigma * x_t
        return (x_t - alpha * out) / sigma

    def predict_x0(
        self, x_t: Tensor, t: float | Tensor, cond: Tensor | None = None
    ) -> Tensor:
        """Estimate of the clean image, whatever the network predicts."""
        out = self.predict(x_t, t, cond)
        alpha, sigma = self.signal_and_noise(t, x_t)
        if self.prediction_type == 'epsilon':
            return (x_t - sigma * out) / alpha
        if self.prediction_type == 'v_prediction':
            return alpha * x_t - sigma * out
        return out

    def sample_times(self, count: int, device: torch.device | str = 'cpu') -> Tensor:
        """Random times for training, (count,)."""
        return torch.randint(self.num_train_timesteps, (count,), device=device)

    @property
    def middle_time(self) -> float:
        """What divides low noise from high noise in training logs."""
        return self.num_train_timesteps / 2

    def level_times(self, count: int) -> list[float]:
        """Times from low to high noise at which a held-out loss is measured."""
        return [
            (2 * i + 1) * self.num_train_timesteps // (2 * count) for i in range(count)
        ]

    def diffusion_loss(
        self,
        x0: Tensor,
        t: Tensor,
        noise: Tensor,
        cond: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Mean squared error of the network's own prediction, per sample: (N,).

        Args:
            x0: Images, (N, 3, H, W) in [-1, 1] (latents of a latent prior).
            t: Timesteps, (N,).
            noise: Standard normal, like ``x0``.
            cond: Class labels, (N,).
            weight: Weights per timestep, (num_train_timesteps,).
        """
        out = self.predict(self.add_noise(x0, t, noise), t, cond)
        alpha, sigma = self.signal_and_noise(t, x0)
        target = {
            'epsilon': noise,
            'v_prediction': alpha * noise - sigma * x0,
            'sample': x0,
        }[self.prediction_type]
        loss = (out.float() - target).square().flatten(1).mean(1)
        return loss if weight is None else loss * weight[t]

    def sample(
        self,
        shape: tuple[int, int, int],
        steps: int = 50,
        generator: Generators = None,
        cond: Tensor | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """Draw images by DDIM.

        Args:
            shape: (N, H, W).
            steps: Number of denoising steps.
            generator: Source of the starting noise; a list gives one to each image.
            cond: Class labels, (N,).
            guidance: Weight of classifier-free guidance (Ho and Salimans 2022), for
                priors trained with label dropout; 1 is none.

        Returns:
            (N, 3, H, W), clipped to [-1, 1].
        """
        return sample_ddim(self, shape, steps, generator, cond, guidance)

    def fingerprint(self) -> bytes:
        """SHA-256 of all weights, by name."""
        digest = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.digest()

    def save_pretrained(self, folder: str) -> None:
        """Write a diffusers folder: config, weights and noise schedule."""
        self.check_whole()
        # Where it was read from is nobody's business.
        self.unet.register_to_config(_name_or_path='')
        self.unet.save_pretrained(folder)
        self.scheduler.save_pretrained(folder)
