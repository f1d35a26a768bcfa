"""A diffusion prior: denoiser and noise schedule behind one interface."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from torch import Tensor, nn

from .loading import read_prior
from .taps import (
    FeatureInfo,
    describe_taps,
    record_layers,
    run_blocks,
    truncate_unet,
)


class DiffusionModel(nn.Module):
    """Pixel diffusion U-Net with its noise schedule.

    Images are RGB in [-1, 1], of shape (N, 3, H, W). Time is DDPM's integer timestep,
    0 (almost clean) to ``num_train_timesteps - 1`` (almost noise).

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

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: DDPMScheduler,
        patch_size: int | None = None,
    ) -> None:
        super().__init__()
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
        self.unet = unet
        self.scheduler = scheduler
        self.patch_size = inferred
        self.register_buffer(
            'alphas_cumprod', scheduler.alphas_cumprod.clone(), persistent=False
        )
        self.feature_info = describe_taps(unet, inferred)
        # The factor that H and W must divide by, to survive every downsampler.
        self.total_stride = max(info.stride for info in self.feature_info)

    @classmethod
    def from_pretrained(
        cls,
        source: str | dict,
        schedule: dict | None = None,
        patch_size: int | None = None,
        cache_dir: str | None = None,
        random_weights: bool = False,
    ) -> 'DiffusionModel':
        """Load a prior.

        Args:
            source: ``mmdiff::NAME`` (shipped), a diffusers folder, a hub id, or
                ``dict(type='UNet2DModel', ...)`` for random weights.
            schedule: Arguments of ``DDPMScheduler``; ``None`` reads the schedule that
                lies beside the weights (DDPM's linear one for random weights).
            patch_size: See the class.
            cache_dir: Where hub files are kept.
            random_weights: Take the network of ``source`` but not its weights, for a
                baseline from scratch.

        Raises:
            FileNotFoundError: Nothing there, or the hub cannot be reached.
            ValueError: Damaged weights, another architecture, a bad schedule.
        """
        unet, scheduler = read_prior(source, schedule, cache_dir, random_weights)
        return cls(unet, scheduler, patch_size)

    @property
    def num_train_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    def resolve_taps(self, taps: Sequence[str | int]) -> list[FeatureInfo]:
        """Turn names or indices (negatives count from the end) into taps.

        Raises:
            ValueError: For a name or an index that the network does not have.
        """
        by_name = {info.name: info for info in self.feature_info}
        found = []
        for tap in taps:
            if isinstance(tap, str):
                if tap not in by_name:
                    raise ValueError(
                        f'There is no tap {tap!r}; the taps of this network are: '
                        f'{", ".join(by_name)}.'
                    )
                found.append(by_name[tap])
            else:
                count = len(self.feature_info)
                if not -count <= tap < count:
                    raise ValueError(
                        f'Tap index {tap} is out of range; the network has {count} '
                        f'taps, 0 to {count - 1} (see feature_info).'
                    )
                found.append(self.feature_info[tap])
        return found

    def features(
        self,
        x_t: Tensor,
        t: int | Tensor,
        taps: Sequence[str | int],
        cond: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Run the U-Net up to the deepest tap and return the tapped outputs.

        Args:
            x_t: Noised images in the range of the prior, (N, 3, H, W).
            t: Timestep, one or (N,).
            taps: Names or indices into ``feature_info``.
            cond: Class labels (N,) of a class-conditional prior.

        Returns:
            ``{name: (N, channels, H / stride, W / stride)}`` in the order asked for.

        Raises:
            ValueError: If H or W do not divide by ``total_stride``; an unknown tap; a
                missing or superfluous ``cond``.
        """
        names = [info.name for info in self.resolve_taps(taps)]
        out: dict[str, Tensor] = {}
        t = torch.as_tensor(t, device=x_t.device).expand(len(x_t))
        with record_layers(self.unet, set(names), out):
            for name, sample in run_blocks(self.unet, self.to_patches(x_t), t, cond):
                out[name] = sample
                if all(n in out for n in names):
                    break
        return {name: out[name] for name in names}

    def truncate(self, taps: Sequence[str | int]) -> None:
        """Delete every block past the deepest of ``taps``; predictions end here.

        Frees memory, and leaves DDP no block without a gradient.
        """
        names = [info.name for info in self.resolve_taps(taps)]
        order = [info.name for info in self.feature_info]
        truncate_unet(self.unet, max(names, key=order.index))
        kept = {info.name for info in describe_taps(self.unet, self.patch_size)}
        self.feature_info = [i for i in self.feature_info if i.name in kept]

    def to_patches(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3 p^2, H / p, W / p), checking the size."""
        height, width = x.shape[-2:]
        if height % self.total_stride or width % self.total_stride:
            raise ValueError(
                f'An input of {height}x{width} does not divide by the stride '
                f'{self.total_stride} of the U-Net; set '
                f'data_preprocessor.pad_size_divisor={self.total_stride}.'
            )
        return F.pixel_unshuffle(x, self.patch_size)

    def _signal_and_noise(self, t: int | Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t = sqrt(alpha_bar) and sigma_t = sqrt(1 - alpha_bar), to broadcast."""
        t = torch.as_tensor(t, device=x.device).expand(len(x))
        alpha_bar = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def add_noise(self, x0: Tensor, t: int | Tensor, noise: Tensor) -> Tensor:
        """``x_t = alpha_t x_0 + sigma_t noise``; t is one timestep or (N,)."""
        alpha, sigma = self._signal_and_noise(t, x0)
        return alpha * x0 + sigma * noise

    def predict(
        self, x_t: Tensor, t: int | Tensor, cond: Tensor | None = None
    ) -> Tensor:
        """The network's raw output (noise, v or x0), without a learned variance."""
        if self.unet.conv_out is None:
            raise RuntimeError(
                'This prior was truncated to its taps and predicts no more; load it '
                'again with DiffusionModel.from_pretrained.'
            )
        out = self.unet(self.to_patches(x_t), t, cond, return_dict=False)[0]
        out = out[:, : self.unet.config.in_channels]
        return F.pixel_shuffle(out, self.patch_size)

    def predict_noise(
        self, x_t: Tensor, t: int | Tensor, cond: Tensor | None = None
    ) -> Tensor:
        """Estimate of the noise in ``x_t``, whatever the network predicts."""
        out = self.predict(x_t, t, cond)
        alpha, sigma = self._signal_and_noise(t, x_t)
        kind = self.scheduler.config.prediction_type
        if kind == 'epsilon':
            return out
        if kind == 'v_prediction':  # v = alpha eps - sigma x0
            return alpha * out + sigma * x_t
        return (x_t - alpha * out) / sigma

    def predict_x0(
        self, x_t: Tensor, t: int | Tensor, cond: Tensor | None = None
    ) -> Tensor:
        """Estimate of the clean image, whatever the network predicts."""
        out = self.predict(x_t, t, cond)
        alpha, sigma = self._signal_and_noise(t, x_t)
        kind = self.scheduler.config.prediction_type
        if kind == 'epsilon':
            return (x_t - sigma * out) / alpha
        if kind == 'v_prediction':
            return alpha * x_t - sigma * out
        return out

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
            x0: Images, (N, 3, H, W) in [-1, 1].
            t: Timesteps, (N,).
            noise: Standard normal, like ``x0``.
            cond: Class labels, (N,).
            weight: Weights per timestep, (num_train_timesteps,).
        """
        out = self.predict(self.add_noise(x0, t, noise), t, cond)
        alpha, sigma = self._signal_and_noise(t, x0)
        kind = self.scheduler.config.prediction_type
        target = {
            'epsilon': noise,
            'v_prediction': alpha * noise - sigma * x0,
            'sample': x0,
        }[kind]
        loss = (out.float() - target).square().flatten(1).mean(1)
        return loss if weight is None else loss * weight[t]

    @torch.no_grad()
    def sample(
        self,
        shape: tuple[int, int, int],
        steps: int = 50,
        generator: torch.Generator | None = None,
        cond: Tensor | None = None,
    ) -> Tensor:
        """Draw images by DDIM.

        Args:
            shape: (N, H, W).
            steps: Number of network evaluations per image.
            generator: Source of the starting noise.
            cond: Class labels, (N,).

        Returns:
            (N, 3, H, W), clipped to [-1, 1].
        """
        count, height, width = shape
        scheduler = DDIMScheduler.from_config(
            self.scheduler.config, timestep_spacing='trailing', clip_sample=True
        )
        scheduler.set_timesteps(steps)
        x = torch.randn(count, 3, height, width, generator=generator)
        x = x.to(self.alphas_cumprod.device)
        for t in scheduler.timesteps.tolist():
            x = scheduler.step(self.predict(x, t, cond), t, x).prev_sample
        return x.clamp(-1, 1)

    def save_pretrained(self, folder: str) -> None:
        """Write a diffusers folder: config, weights and noise schedule."""
        # Where it was read from is nobody's business.
        self.unet.register_to_config(_name_or_path='')
        self.unet.save_pretrained(folder)
        self.scheduler.save_pretrained(folder)
