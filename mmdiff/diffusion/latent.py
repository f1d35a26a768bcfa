"""A latent diffusion prior: Stable Diffusion 1.x and 2.x; SDXL builds on it."""

import hashlib
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor

from .features import FeatureInfo
from .noise import TILE, FixedNoise
from .prompts import ONE_ENCODER, PromptEmbedder, PromptEmbedding, draw_embedding
from .timesteps import TimestepDiffusionModel
from .unets import check_unet
from .weights import save_network

# Seed of the posterior's noise; the noises of DiffusionUNet have the seeds from 0 on.
LATENT_SEED = -1
# What other U-Nets are conditioned on, beyond time and text.
OTHER_CONDITIONS = (
    'class_embed_type',
    'num_class_embeds',
    'encoder_hid_dim_type',
    'time_cond_proj_dim',
)


class LatentDiffusionModel(TimestepDiffusionModel):
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
        ValueError: If the U-Net needs more than time and text, or the parts do not fit
            each other.
        TypeError: If ``prompt`` is not one string.

    Example:
        >>> import torch
        >>> from mmdiff.diffusion import DiffusionModel
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

    # What the U-Net adds to the embedding of time.
    addition: str | None = None
    encoders: tuple[str, ...] = ONE_ENCODER

    def __init__(
        self,
        unet: UNet2DConditionModel,
        scheduler: DDPMScheduler,
        vae: AutoencoderKL,
        text: PromptEmbedder | None = None,
        prompt: str = '',
        latent: str = 'mean',
    ) -> None:
        check_conditions(unet.config, (self.addition,))
        check_unet(unet.config, scheduler)
        check_latents(unet.config, vae.config)
        check_latent(latent)
        check_prompt(prompt)
        encoder_stride = 2 ** (len(vae.config.block_out_channels) - 1)
        super().__init__(unet, scheduler, input_stride=encoder_stride)
        self.encoder_stride = encoder_stride
        self.vae = vae.requires_grad_(False)
        self.scale = vae.config.scaling_factor
        self.shift = vae.config.get('shift_factor') or 0.0
        self.latent = latent
        if latent == 'sample':
            channels = vae.config.latent_channels
            self.latent_noise = FixedNoise(channels, (TILE, TILE), (LATENT_SEED,))
        self._set_prompt(prompt, text)

    def _set_prompt(self, prompt: str, text: PromptEmbedder | None) -> None:
        width = self.unet.config.cross_attention_dim
        if text is None:
            embedding = draw_embedding(prompt, width, self.pooled_width)
        else:
            embedding = text.embed(prompt)
        self.check_embedding(self.unet.config, embedding)
        self.prompt = prompt
        self.register_buffer('prompt_embeds', embedding.tokens, persistent=False)
        # For checkpoints: an embedding's last bits differ from machine to machine.
        key = list(hashlib.sha256(self.told.encode()).digest())
        self.register_buffer('prompt_key', torch.tensor(key, dtype=torch.uint8))
        self._set_pooled(embedding.pooled)

    @classmethod
    def check_embedding(cls, config: dict, embedding: PromptEmbedding) -> None:
        """Refuse the embedding of another prior's text encoder.

        Args:
            config: The settings of the U-Net.
            embedding: What it is to be told.

        Raises:
            ValueError: If the numbers of channels differ.
        """
        width = config.get('cross_attention_dim', 1280)  # diffusers' default
        given = embedding.tokens.shape[-1]
        if given != width:
            raise ValueError(
                f'The text encoder gives {given} channels, the U-Net takes {width}; '
                'they are of different priors.'
            )

    @property
    def told(self) -> str:
        """All that the U-Net is told beside image and time, in words."""
        return self.prompt

    @property
    def pooled_width(self) -> int | None:
        """Channels of the pooled prompt; ``None`` if the U-Net takes none."""
        return None

    def _set_pooled(self, pooled: Tensor | None) -> None:
        """Keep the pooled prompt, (1, P), where the U-Net takes one."""

    @property
    def noise_channels(self) -> int:
        return self.unet.config.in_channels

    def enable_gradient_checkpointing(self) -> None:
        """Keep no activations inside blocks of U-Net and VAE."""
        super().enable_gradient_checkpointing()
        self.vae.enable_gradient_checkpointing()

    def encode(self, x: Tensor) -> Tensor:
        """Encode images (N, 3, H, W) in [-1, 1]; SD's latents are (N, 4, H/8, W/8)."""
        self.check_size(*x.shape[-2:])
        posterior = self.vae.encode(x.to(self.vae.dtype)).latent_dist
        z = posterior.mean.to(x.dtype)
        if self.latent == 'sample':
            z = z + posterior.std.to(x.dtype) * self.latent_noise(z)
        return self.scale * (z - self.shift)

    def decode(self, x0: Tensor) -> Tensor:
        """Decode latents to images, (N, 3, H, W), about in [-1, 1]."""
        self.check_whole()
        z = (x0 / self.scale + self.shift).to(self.vae.dtype)
        return self.vae.decode(z).sample.to(x0.dtype)

    def _network_input(self, x: Tensor) -> Tensor:
        self.check_size(*(side * self.encoder_stride for side in x.shape[-2:]))
        return x.to(self.unet.dtype)

    def _conditions(self, cond: Tensor | None, x: Tensor) -> dict[str, Tensor | None]:
        return {'text': self._text(cond, x), 'added': self._added(x)}

    def _added(self, x: Tensor) -> dict[str, Tensor] | None:
        """Return what the U-Net adds to the embedding of time, by diffusers' names."""
        return None

    def _text(self, cond: Tensor | None, x: Tensor) -> Tensor:
        """Return the prompt's embedding, or ``cond`` in its place, for every sample."""
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

    def _predict(self, x_t: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        text, added = self._text(cond, x_t), self._added(x_t)
        out = self.unet(
            self._network_input(x_t),
            t,
            text,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        return out[:, : self.unet.config.in_channels]

    def _truncate(self, deepest: str) -> list[FeatureInfo]:
        self.vae.decoder = self.vae.post_quant_conv = None
        return super()._truncate(deepest)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        key = state_dict.get(f'{prefix}prompt_key', self.prompt_key)
        if not torch.equal(key.cpu(), self.prompt_key.cpu()):
            raise ValueError(
                'The checkpoint was trained with another prompt (or other time_ids): '
                'give the same model=dict(prompt=...) as in training.'
            )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a pipeline folder, with the prompt's embedding for text encoder."""
        self.check_whole()
        save_network(self.unet, Path(folder, 'unet'))
        save_network(self.vae, Path(folder, 'vae'))
        self.scheduler.save_pretrained(Path(folder, 'scheduler'))
        embedding = PromptEmbedding(self.prompt_embeds, self._pooled())
        PromptEmbedder(Path(folder)).save(self.prompt, embedding)

    def _pooled(self) -> Tensor | None:
        return None


def check_latent(latent: str) -> None:
    """Refuse what is no way to read the VAE's posterior.

    Raises:
        ValueError: If it is unknown.
    """
    if latent not in ('mean', 'sample'):
        raise ValueError(f"latent={latent!r} is unknown; take 'mean' or 'sample'.")


def check_prompt(prompt: str) -> None:
    """Refuse what is no prompt.

    Raises:
        TypeError: If it is not one string.
    """
    if not isinstance(prompt, str):
        raise TypeError(f'prompt must be one string, not {prompt!r}.')


def check_conditions(
    config: dict, additions: tuple[str | None, ...] = (None, 'text_time')
) -> None:
    """Refuse a U-Net that needs more than time, text, and SDXL's sizes.

    Args:
        config: The settings of a ``UNet2DConditionModel``.
        additions: What may be added to the embedding of time.

    Raises:
        ValueError: If it needs more.
    """
    refused = [key for key in OTHER_CONDITIONS if config.get(key) is not None]
    if config.get('addition_embed_type') not in additions:
        refused.insert(0, 'addition_embed_type')
    if refused:
        key = refused[0]
        raise ValueError(
            f'This U-Net has {key}={config.get(key)!r} (as unCLIP, Kandinsky, '
            'upscalers or consistency models have): it needs more than time and a '
            'prompt; give Stable Diffusion 1.x, 2.x or SDXL.'
        )


def check_latents(unet: dict, vae: dict) -> None:
    """Refuse a U-Net that does not take the latents of the VAE.

    Args:
        unet: The settings of the U-Net.
        vae: Those of the VAE.

    Raises:
        ValueError: If the numbers of channels differ, or the latents are not one
            number times what the VAE gives.
    """
    taken, encoded = unet.get('in_channels', 4), vae.get('latent_channels', 4)
    if taken != encoded:
        raise ValueError(
            f'The U-Net takes {taken} channels, the VAE gives {encoded}; inpainting, '
            'depth and editing variants need more than an image: give a text-to-image '
            'prior.'
        )
    if vae.get('latents_mean') is not None or vae.get('latents_std') is not None:
        raise ValueError(
            'The VAE has latents_mean and latents_std (as Playground v2.5 has): its '
            'latents are scaled channel by channel, which is not supported; give '
            'Stable Diffusion 1.x, 2.x or SDXL.'
        )
    if vae.get('in_channels', 3) != 3:
        raise ValueError(
            f'The VAE takes images of {vae["in_channels"]} channels; give one of RGB '
            'images.'
        )
    if not vae.get('scaling_factor', 1):
        raise ValueError(
            "The VAE's config.json has no scaling_factor above 0: latents would all be "
            'the same; repair it (0.18215 in Stable Diffusion 1.x and 2.x).'
        )
