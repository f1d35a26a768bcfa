"""DDPM++ and NCSN++ (Song et al. 2021), as EDM trains them."""

import math
from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from .encoder_decoder import EncoderDecoder
from .layers import Conv2d, NoiseEmbedding, UNetBlock


class SongUNet(EncoderDecoder):
    """DDPM++ or NCSN++ (Karras et al. 2022, app. F.6); it takes images of any size.

    Args:
        img_resolution: Side of the images that it was made for; blocks are named by it.
        channels: Channels of the image.
        label_dim: Number of classes; 0 is unconditional.
        augment_dim: Length of the vector that tells of augmentations; 0 is none.
        model_channels: Unit of the numbers of channels.
        channel_mult: Channels of each level, in that unit; each halves the resolution.
        channel_mult_emb: Channels of the embedding, in that unit.
        num_blocks: Blocks per level; the decoder has one more.
        attn_resolutions: Resolutions with self-attention.
        dropout: Share that is dropped inside the blocks.
        label_dropout: Share of the training samples that lose their class.
        embedding_type: ``'positional'`` (DDPM++) or ``'fourier'`` (NCSN++).
        channel_mult_noise: Width of that embedding, in that unit; 1, or 2 for NCSN++.
        encoder_type: ``'standard'`` (DDPM++) or ``'residual'`` (NCSN++: the image
            itself, downsampled, joins every level).
        decoder_type: ``'standard'``, the only one that was published.
        resample_filter: (1, 1) for DDPM++, (1, 3, 3, 1) for NCSN++.

    Raises:
        ValueError: If a type is unknown.

    Example:
        >>> import torch
        >>> unet = SongUNet(16, 3, model_channels=8, channel_mult=(1, 2), num_blocks=1)
        >>> taps = unet.run_blocks(torch.zeros(1, 3, 16, 16), torch.zeros(1))
        >>> [name for name, _ in taps]
        ['down.0.0', 'down.0', 'down.1.0', 'down.1', 'mid',
         'up.0.0', 'up.0.1', 'up.0', 'up.1.0', 'up.1.1', 'up.1', 'output']
    """

    attend_last_only = True
    eps = 1e-6

    def __init__(
        self,
        img_resolution: int,
        channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.1,
        label_dropout: float = 0.0,
        embedding_type: str = 'positional',
        channel_mult_noise: int = 1,
        encoder_type: str = 'standard',
        decoder_type: str = 'standard',
        resample_filter: Sequence[float] = (1, 1),
    ) -> None:
        check_choice('embedding_type', embedding_type, ('positional', 'fourier'))
        check_choice('encoder_type', encoder_type, ('standard', 'residual'))
        check_choice('decoder_type', decoder_type, ('standard',))
        super().__init__(
            img_resolution, channels, label_dim, augment_dim, label_dropout
        )
        self.residual_encoder = encoder_type == 'residual'
        self.resample_filter = resample_filter
        # Channels of the image on its own way down.
        self._aux_channels = channels
        noise_channels = model_channels * channel_mult_noise
        emb_channels = model_channels * channel_mult_emb
        self._build_embedding(noise_channels, emb_channels, embedding_type)
        block = self._block(emb_channels, dropout)
        widths = [model_channels * mult for mult in channel_mult]
        self._build(block, model_channels, widths, num_blocks, attn_resolutions)
        self._initialise()

    def _build_embedding(
        self, noise_channels: int, emb_channels: int, embedding_type: str
    ) -> None:
        fourier = embedding_type == 'fourier'
        self.map_noise = NoiseEmbedding(noise_channels, fourier, endpoint=True)
        self.map_layer0 = nn.Linear(noise_channels, emb_channels)
        self.map_layer1 = nn.Linear(emb_channels, emb_channels)
        if self.label_dim:
            self.map_label = nn.Linear(self.label_dim, noise_channels)
        if self.augment_dim:
            self.map_augment = nn.Linear(self.augment_dim, noise_channels, bias=False)

    def _block(self, emb_channels: int, dropout: float) -> partial:
        return partial(
            UNetBlock,
            emb_channels=emb_channels,
            dropout=dropout,
            skip_scale=math.sqrt(0.5),
            eps=self.eps,
            resample_filter=self.resample_filter,
            resample_proj=True,
            adaptive_scale=False,
        )

    def _num_heads(self, width: int) -> int:
        return 1

    def _output_path(self, key: str) -> str:
        return f'dec.{key}_aux'

    def _add_auxiliary(self, key: str, width: int) -> None:
        if self.residual_encoder:
            downsampler = Conv2d(
                self._aux_channels,
                width,
                kernel=3,
                mode='down',
                resample_filter=self.resample_filter,
                resample_last=True,
            )
            self._add(f'enc.{key}_aux_residual', downsampler)
            self._aux_channels = width

    def _join_auxiliary(self, key: str, x: Tensor, aux: Tensor) -> tuple:
        if not self.residual_encoder:
            return x, aux
        x = (x + self.enc[f'{key}_aux_residual'](aux)) * math.sqrt(0.5)
        return x, x

    def _initialise(self) -> None:
        for name, module in self.named_modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                gain = 1.0
                if name.endswith('qkv'):
                    gain = math.sqrt(0.2)
                elif name.endswith(('conv1', 'proj', 'aux_conv')):
                    gain = 1e-5  # blocks and the whole network begin near zero
                nn.init.xavier_uniform_(module.weight, gain)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _embed(self, noise: Tensor, labels: Tensor, augment: Tensor) -> Tensor:
        dtype = self.map_layer0.weight.dtype
        emb = self.map_noise(noise)
        emb = emb.roll(emb.shape[1] // 2, dims=1).to(dtype)  # here sines come first
        if self.augment_dim:
            emb = emb + self.map_augment(augment.to(dtype))
        if self.label_dim:
            labels = self._drop_labels(labels).to(dtype)
            emb = emb + self.map_label(labels * math.sqrt(self.label_dim))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))


def check_choice(name: str, value: str, known: Sequence[str]) -> None:
    """Complain about an option that is not one of ``known``.

    Raises:
        ValueError: If it is not.
    """
    if value not in known:
        raise ValueError(f'{name}={value!r} is unknown; choose one of {known}.')
