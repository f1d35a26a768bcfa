"""A latent diffusion prior with two text encoders and sizes: SDXL."""

from collections.abc import Sequence
from numbers import Integral

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor

from .latent import LatentDiffusionModel
from .prompts import TWO_ENCODERS, PromptEmbedder, PromptEmbedding

# Height and width of the original, top and left of the crop, height and width wanted.
NUM_TIME_IDS = 6


class SDXLDiffusionModel(LatentDiffusionModel):
    """U-Net on latents under a prompt, pooled too, and sizes (Podell et al. 2023).

    The U-Net is told how large an image was before training cropped it, where it was
    cropped, and which size is wanted: the *time ids*. Left out, they say that the image
    was never resized nor cropped, ``(H, W, 0, 0, H, W)`` with the H and W in pixels of
    the input as it comes (with the padding of its batch), which is the default of
    diffusers' pipeline too. SDXL was trained around 1024 x 1024; it takes small sizes
    for the poor images among its training data.

    Args:
        unet: The denoiser, with ``addition_embed_type='text_time'``.
        scheduler: Holder of alpha_bar and of the kind of prediction.
        vae: The autoencoder.
        text: Embeds the prompt; ``None`` draws a random embedding seeded by it.
        prompt: What the U-Net is told.
        latent: See :class:`LatentDiffusionModel`.
        time_ids: The six numbers for every image, whatever its size.

    Raises:
        ValueError: If the U-Net is no SDXL, or the parts do not fit each other.
        TypeError: If ``time_ids`` are not six whole numbers.

    Example:
        >>> from mmdiff.diffusion import DiffusionModel
        >>> unet = dict(block_out_channels=(4, 8), norm_num_groups=2,
        ...     down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D'),
        ...     up_block_types=('CrossAttnUpBlock2D', 'UpBlock2D'),
        ...     attention_head_dim=2, cross_attention_dim=8,
        ...     addition_embed_type='text_time', addition_time_embed_dim=4,
        ...     projection_class_embeddings_input_dim=32)
        >>> vae = dict(block_out_channels=(4, 4), norm_num_groups=2,
        ...     down_block_types=('DownEncoderBlock2D',) * 2,
        ...     up_block_types=('UpDecoderBlock2D',) * 2)
        >>> source = dict(type='LatentDiffusion', unet=unet, vae=vae)
        >>> model = DiffusionModel.from_pretrained(source)
        >>> model.pooled_width, model.size_ids(torch.zeros(1, 4, 16, 24))[0].tolist()
        (8, [32.0, 48.0, 0.0, 0.0, 32.0, 48.0])
    """

    addition = 'text_time'
    encoders = TWO_ENCODERS

    def __init__(
        self,
        unet: UNet2DConditionModel,
        scheduler: DDPMScheduler,
        vae: AutoencoderKL,
        text: PromptEmbedder | None = None,
        prompt: str = '',
        latent: str = 'mean',
        time_ids: Sequence[int] | None = None,
    ) -> None:
        check_sizes(unet.config)
        self.time_ids = parse_time_ids(time_ids)
        super().__init__(unet, scheduler, vae, text, prompt, latent)

    @property
    def told(self) -> str:
        if self.time_ids is None:
            return self.prompt
        return f'{self.prompt}\ntime_ids {self.time_ids}'

    @property
    def pooled_width(self) -> int:
        """Channels of the pooled prompt; 1280 of SDXL's second encoder."""
        return pooled_width_of(self.unet.config)

    @classmethod
    def check_embedding(cls, config: dict, embedding: PromptEmbedding) -> None:
        """See :meth:`LatentDiffusionModel.check_embedding`; of the pooled prompt too.

        Raises:
            ValueError: If there is none, or the numbers of channels differ.
        """
        super().check_embedding(config, embedding)
        pooled, width = embedding.pooled, pooled_width_of(config)
        given = None if pooled is None else pooled.shape[-1]
        if given != width:
            raise ValueError(
                f'The second text encoder gives {given or "no"} pooled channels, the '
                f'U-Net takes {width}; they are of different priors.'
            )

    def _set_pooled(self, pooled: Tensor | None) -> None:
        self.register_buffer('pooled_prompt_embeds', pooled, persistent=False)

    def _pooled(self) -> Tensor:
        return self.pooled_prompt_embeds

    def size_ids(self, x: Tensor) -> Tensor:
        """Return the time ids of latents (N, C, H, W), (N, 6), fp32."""
        height, width = (int(side) * self.encoder_stride for side in x.shape[-2:])
        ids = self.time_ids or (height, width, 0, 0, height, width)
        return torch.tensor([ids], dtype=torch.float32, device=x.device).expand(
            len(x), -1
        )

    def _added(self, x: Tensor) -> dict[str, Tensor]:
        pooled = self.pooled_prompt_embeds.expand(len(x), -1).to(self.unet.dtype)
        return {'text_embeds': pooled, 'time_ids': self.size_ids(x)}

    def _text(self, cond: Tensor | None, x: Tensor) -> Tensor:
        if cond is not None:
            raise ValueError(
                'An SDXL prior takes one prompt with its pooled vector, no condition '
                'for each image: set prompt in model=dict(prompt=...) and leave the '
                'condition out.'
            )
        return super()._text(None, x)

    def cast(self, dtype: str | torch.dtype) -> None:
        """Run the networks in another precision; a VAE that float16 overflows stays.

        See :meth:`LatentDiffusionModel.cast`.
        """
        super().cast(dtype)
        if self._overflows():
            self.vae.float()

    def encode(self, x: Tensor) -> Tensor:
        self._check_precision()
        return super().encode(x)

    def decode(self, x0: Tensor) -> Tensor:
        self._check_precision()
        return super().decode(x0)

    def _overflows(self) -> bool:
        # Its activations go past 65504 (diffusers casts it to fp32 then).
        return self.vae.dtype == torch.float16 and bool(self.vae.config.force_upcast)

    def _check_precision(self) -> None:
        if self._overflows():
            raise ValueError(
                'The VAE of this prior overflows in float16 (force_upcast=True): load '
                "it with dtype='float16', which leaves the VAE in float32, or cast "
                'to bfloat16.'
            )


def check_sizes(config: dict) -> None:
    """Refuse a U-Net that is told other things than SDXL's.

    Args:
        config: The settings of a ``UNet2DConditionModel``.

    Raises:
        ValueError: If it takes no pooled prompt with six sizes.
    """
    if config.get('addition_embed_type') != 'text_time':
        raise ValueError(
            'This U-Net takes no sizes (addition_embed_type is not text_time); load it '
            'as a DiffusionModel.'
        )
    if not config.get('addition_time_embed_dim') or pooled_width_of(config) < 1:
        raise ValueError(
            'This U-Net has '
            f'addition_time_embed_dim={config.get("addition_time_embed_dim")} and '
            'projection_class_embeddings_input_dim='
            f'{config.get("projection_class_embeddings_input_dim")}; SDXL has '
            f'{NUM_TIME_IDS} sizes and a pooled prompt in it.'
        )


def pooled_width_of(config: dict) -> int:
    """Return the channels that are left for the pooled prompt beside six sizes."""
    whole = config.get('projection_class_embeddings_input_dim') or 0
    return whole - NUM_TIME_IDS * (config.get('addition_time_embed_dim') or 0)


def parse_time_ids(time_ids: Sequence[int] | None) -> tuple[int, ...] | None:
    """Return the six numbers of an image's sizes and crop.

    Raises:
        TypeError: If they are no six whole numbers.
    """
    if time_ids is None:
        return None
    whole = isinstance(time_ids, Sequence) and not isinstance(time_ids, str)
    if whole and len(time_ids) == NUM_TIME_IDS:
        if all(isinstance(i, Integral) and not isinstance(i, bool) for i in time_ids):
            return tuple(int(i) for i in time_ids)
    raise TypeError(
        f'time_ids={time_ids!r} are not six whole numbers: height and width of the '
        'original image, top and left of the crop, height and width that are wanted, '
        'in pixels.'
    )
