"""ADM's network (Dhariwal and Nichol 2021), as EDM trains it."""

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from .encoder_decoder import EncoderDecoder
from .layers import NoiseEmbedding, UNetBlock

HEAD_CHANNELS = 64


class DhariwalUNet(EncoderDecoder):
    """ADM (Karras et al. 2022, app. F.6); it takes images of any size.

    Arguments are those of :class:`SongUNet`, with defaults of their own; embedding,
    encoder and filter cannot be chosen.

    Example:
        >>> import torch
        >>> unet = DhariwalUNet(16, 3, model_channels=64, channel_mult=(1, 2),
        ...     num_blocks=1)
        >>> unet(torch.zeros(1, 3, 16, 16), torch.zeros(1)).shape
        torch.Size([1, 3, 16, 16])
    """

    attend_last_only = False
    eps = 1e-5

    def __init__(
        self,
        img_resolution: int,
        channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.1,
        label_dropout: float = 0.0,
    ) -> None:
        super().__init__(
            img_resolution, channels, label_dim, augment_dim, label_dropout
        )
        emb_channels = model_channels * channel_mult_emb
        self.map_noise = NoiseEmbedding(model_channels, fourier=False, endpoint=False)
        self.map_layer0 = nn.Linear(model_channels, emb_channels)
        self.map_layer1 = nn.Linear(emb_channels, emb_channels)
        if label_dim:
            self.map_label = nn.Linear(label_dim, emb_channels, bias=False)
        if augment_dim:
            self.map_augment = nn.Linear(augment_dim, model_channels, bias=False)
        block = partial(
            UNetBlock, emb_channels=emb_channels, dropout=dropout, eps=self.eps
        )
        widths = [model_channels * mult for mult in channel_mult]
        self._build(block, widths[0], widths, num_blocks, attn_resolutions)
        self._initialise()

    def _num_heads(self, width: int) -> int:
        return width // HEAD_CHANNELS

    def _output_path(self, key: str) -> str:
        return 'out'

    def _initialise(self) -> None:
        for name, module in self.named_modules():
            if not isinstance(module, (nn.Linear, nn.Conv2d)):
                continue
            if name == 'map_label':
                nn.init.normal_(module.weight)
            elif name.endswith(('conv1', 'proj', 'out_conv', 'map_augment')):
                for parameter in module.parameters():
                    nn.init.zeros_(parameter)
            # The others stay as torch initialises them.

    def _embed(self, noise: Tensor, labels: Tensor, augment: Tensor) -> Tensor:
        dtype = self.map_layer0.weight.dtype
        emb = self.map_noise(noise).to(dtype)
        if self.augment_dim:
            emb = emb + self.map_augment(augment.to(dtype))
        emb = self.map_layer1(F.silu(self.map_layer0(emb)))
        if self.label_dim:
            emb = emb + self.map_label(self._drop_labels(labels).to(dtype))
        return F.silu(emb)
