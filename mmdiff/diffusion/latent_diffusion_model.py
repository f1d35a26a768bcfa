"""A latent diffusion prior: Stable Diffusion 1.x and 2.x."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor

from .diffusion_model import DiffusionModel
from .latent_loading import PromptEmbedder, check_conditions, draw_embedding
from .noise import fixed_noise
from .taps import describe_taps, tap_outputs

# Of the posterior's noise; the noises of DiffusionUNet have the seeds from 0 on.
LATENT_SEED = -1


class LatentDiffusionModel(DiffusionModel):
    """U-Net on the latents of a VAE, under one prompt (Rombach et al. 2022).

    Images are RGB in [-1, 1]; what noise is added to are their latents,
    ``scaling_factor * (z - shift_factor)`` with z from the VAE's posterior. The strides
    of taps count the VAE's. Gradients flow through the VAE to the image; its weights
    are never trained. The text encoder is not kept: a prompt is embedded once.

    Args:
        unet: The denoiser, conditioned on time and text alone.
        scheduler: Holder of alpha_bar and of the kind of prediction.
        vae: The autoencoder.
        text: Embeds the prompt; ``None`` draws a random embedding seeded by it.
        prompt: What the U-Net is told.
        latent: ``'mean'`` of the VAE's posterior, or a ``'sample'`` of it with noise
            that depends on the position alone.

    Raises:
        ValueError: For a U-Net that needs more than time and text (SDXL), or parts
            that do not fit each other.

    Example:
        >>> import torch
        >>> unet = dict(block_out_channels=(4, 8), norm_num_groups=2,
        ...     down_block_types=('CrossAttnDownBlock2D', 'DownBlock2D'),
        ...     up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D'),
        ...     attention_head_dim=2, cross_attention_dim=8)
        >>> vae = dict(block_out_channels=(4, 4), norm_num_groups=2,
        ...     down_block_types=('DownEncoderBlock2D',) * 2,
        ...     up_block_types=('UpDecoderBlock2D',) * 2)
        >>> source = dict(type='LatentDiffusion', unet=unet, vae=vae)
        >>> model = DiffusionModel.from_pretrained(source)
        >>> latents = model.encode(torch.zeros(1, 3, 32, 32))
        >>> {k: tuple(v.shape) for k, v in model.features(latents, 1, ['mid']).items()}
        {'mid': (1, 8, 8, 8)}
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        scheduler: DDPMScheduler,
        vae: AutoencoderKL,
        text: PromptEmbedder | None = None,
        prompt: str = '',
        latent: str = 'mean',
    ) -> None:
        check_conditions(unet.config)
        if unet.config.in_channels != vae.config.latent_channels:
            raise ValueError(
                f'The U-Net takes {unet.config.in_channels} channels, the VAE gives '
                f'{vae.config.latent_channels}; inpainting, depth and editing variants '
                'need more than an image: give a text-to-image prior.'
            )
        if latent not in ('mean', 'sample'):
            raise ValueError(f"latent={latent!r} is unknown; take 'mean' or 'sample'.")
        if not isinstance(prompt, str):
            raise TypeError(f'prompt must be one string, not {prompt!r}.')
        super().__init__(unet, scheduler)
        self.vae = vae.requires_grad_(False)
        self.encoder_stride = 2 ** (len(vae.config.block_out_channels) - 1)
        self._set_taps(describe_taps(unet, self.encoder_stride))
        self.scale = vae.config.scaling_factor
        self.shift = vae.config.get('shift_factor') or 0.0
        self.prompt = prompt
        self.latent = latent
        width = unet.config.cross_attention_dim
        embedding = text.embed(prompt) if text else draw_embedding(prompt, width)
        if embedding.shape[-1] != width:
            raise ValueError(
                f'The text encoder gives {embedding.shape[-1]} channels, the U-Net '
                f'takes {width}; they are of different priors.'
            )
        self.register_buffer('prompt_embeds', embedding, persistent=False)
        # For checkpoints: an embedding's last bits differ from machine to machine.
        key = list(hashlib.sha256(prompt.encode()).digest())
        self.register_buffer('prompt_key', torch.tensor(key, dtype=torch.uint8))

    @staticmethod
    def _infer_patch_size(unet: UNet2DConditionModel, patch_size: int | None) -> int:
        return 1

    def enable_gradient_checkpointing(self) -> None:
        """Keep no activations inside blocks of U-Net and VAE."""
        super().enable_gradient_checkpointing()
        self.vae.enable_gradient_checkpointing()

    def encode(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1] -> latents, (N, 4, H / 8, W / 8) for SD."""
        self.check_size(*x.shape[-2:])
        posterior = self.vae.encode(x.to(self.vae.dtype)).latent_dist
        z = posterior.mean.to(x.dtype)
        if self.latent == 'sample':
            noise = fixed_noise(z.shape[1:], LATENT_SEED).to(z)
            z = z + posterior.std.to(x.dtype) * noise
        return self.scale * (z - self.shift)

    def decode(self, x0: Tensor) -> Tensor:
        """Latents -> images (N, 3, H, W), about in [-1, 1]."""
        self.check_whole()
        z = (x0 / self.scale + self.shift).to(self.vae.dtype)
        return self.vae.decode(z).sample.to(x0.dtype)

    def _condition(self, cond: Tensor | None, x: Tensor) -> Tensor:
        """The prompt's embedding, or ``cond`` in its place, for every sample."""
        if cond is None:
            cond = self.prompt_embeds
        width = self.unet.config.cross_attention_dim
        if cond.ndim != 3 or cond.shape[-1] != width or len(cond) not in (1, len(x)):
            raise ValueError(
                f'A latent prior is conditioned on text embeddings of shape '
                f'({len(x)}, L, {width}), not {tuple(cond.shape)}: set prompt in '
                'model=dict(prompt=...) and leave a class out.'
            )
        return cond.expand(len(x), -1, -1).to(self.unet.dtype)

    def _tap_outputs(self, x_t, t, cond, names) -> dict[str, Tensor]:
        sample, cond = self._network_input(x_t), self._condition(cond, x_t)
        return tap_outputs(self.unet, sample, t, cond, names, run_blocks)

    def _predict(self, x_t: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        return super()._predict(x_t, t, self._condition(cond, x_t))

    def _truncate(self, deepest: str) -> None:
        super()._truncate(deepest)
        self.vae.decoder = self.vae.post_quant_conv = None

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        key = state_dict.get(f'{prefix}prompt_key', self.prompt_key)
        if not torch.equal(key.cpu(), self.prompt_key.cpu()):
            raise ValueError(
                'The checkpoint was trained with another prompt: give the same '
                'model=dict(prompt=...) as in training.'
            )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def save_pretrained(self, folder: str) -> None:
        """Write a pipeline folder, with the prompt's embedding for text encoder."""
        self.check_whole()
        for name in ('unet', 'vae'):
            module = getattr(self, name)
            module.register_to_config(_name_or_path='')
            module.save_pretrained(Path(folder, name))
        self.scheduler.save_pretrained(Path(folder, 'scheduler'))
        PromptEmbedder(Path(folder)).save(self.prompt, self.prompt_embeds)


def run_blocks(
    unet: UNet2DConditionModel, sample: Tensor, t: Tensor, cond: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """As :func:`taps.run_blocks`; ``cond`` are embeddings of prompts, (N, L, D)."""

    def run(block, *args):
        if getattr(block, 'has_cross_attention', False):
            return block(*args, encoder_hidden_states=cond)
        return block(*args)

    # 0. center input if necessary
    if unet.config.center_input_sample:
        sample = 2 * sample - 1.0
    # 1. time
    emb = unet.time_embedding(unet.time_proj(t).to(unet.dtype))
    if unet.time_embed_act is not None:
        emb = unet.time_embed_act(emb)
    # 2. pre-process
    sample = unet.conv_in(sample)
    # 3. down
    residuals = (sample,)
    for i, block in enumerate(unet.down_blocks):
        sample, res = run(block, sample, emb)
        residuals += res
        yield f'down.{i}', sample
    # 4. mid
    if unet.mid_block is not None:
        sample = run(unet.mid_block, sample, emb)
        yield 'mid', sample
    # 5. up
    for i, block in enumerate(unet.up_blocks):
        count = len(block.resnets)
        res, residuals = residuals[-count:], residuals[:-count]
        sample = run(block, sample, res, emb)
        yield f'up.{i}', sample
