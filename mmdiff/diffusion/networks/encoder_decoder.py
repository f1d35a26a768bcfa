"""The U-Net that EDM's two networks are variants of: encoder, middle, decoder."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..features import FeatureInfo
from .layers import Conv2d, UNetBlock, group_norm

Blocks = Iterator[tuple[str, Tensor]]


class EncoderDecoder(nn.Module, ABC):
    """U-Net of Karras et al. 2022, app. F.6, that yields its taps as it runs.

    A subclass embeds noise level and class, says where attention is, and initialises
    the weights. Modules are named as in the published checkpoints.

    Attributes:
        enc: Modules of the encoder, in the order of execution.
        dec: Modules of the middle and of the decoder.
        feature_info: Taps in the order of execution.
        gradient_checkpointing: Whether blocks keep no activations.

    Args:
        img_resolution: Side of the images that it was made for; blocks are named by it.
        channels: Channels of the image.
        label_dim: Number of classes; 0 is unconditional.
        augment_dim: Length of the vector that tells of augmentations; 0 is none.
        label_dropout: Share of the training samples that lose their class.
    """

    # Whether only the last block of a level of the decoder has attention.
    attend_last_only: bool
    # Of the group norms.
    eps: float

    def __init__(
        self,
        img_resolution: int,
        channels: int,
        label_dim: int,
        augment_dim: int,
        label_dropout: float,
    ) -> None:
        super().__init__()
        self.img_resolution, self.channels = img_resolution, channels
        self.label_dim, self.augment_dim = label_dim, augment_dim
        self.label_dropout = label_dropout
        self.gradient_checkpointing = False
        self.feature_info: list[FeatureInfo] = []
        # Paths of the modules in the order of execution, and how many of them have run
        # when a tap is there.
        self._paths: list[str] = []
        self._depths: dict[str, int] = {}

    # Hooks of the subclasses --------------------------------------------------------

    @abstractmethod
    def _embed(self, noise: Tensor, labels: Tensor, augment: Tensor) -> Tensor:
        """Embed noise level, augmentations and class, (N, D)."""

    @abstractmethod
    def _num_heads(self, width: int) -> int:
        """Return the number of heads among ``width`` channels."""

    @abstractmethod
    def _output_path(self, key: str) -> str:
        """Return what the paths of the last norm and convolution begin with."""

    def _add_auxiliary(self, key: str, width: int) -> None:
        """Add what downsamples the image beside a level of the encoder, if any."""

    def _join_auxiliary(self, key: str, x: Tensor, aux: Tensor) -> tuple:
        """Join the features with those of the image's own downsampling, if any."""
        return x, aux

    # Building -----------------------------------------------------------------------

    def _build(
        self,
        block: partial,
        width: int,
        widths: list[int],
        num_blocks: int,
        attn_resolutions: Sequence[int],
    ) -> None:
        """Add all modules but the embedding's.

        Args:
            block: A :class:`UNetBlock` that waits for its channels.
            width: Channels of the first convolution.
            widths: Channels of each level; each halves the resolution.
            num_blocks: Blocks per level; the decoder has one more.
            attn_resolutions: Resolutions with self-attention.
        """
        self.sides = [self.img_resolution >> level for level in range(len(widths))]
        self.widths, self.num_blocks = widths, num_blocks
        self.attn_resolutions = attn_resolutions
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        skips = self._build_encoder(block, width)
        self._build_decoder(block, skips)

    def _build_encoder(self, block: partial, width: int) -> list[int]:
        """Add the encoder; return the channels of the skip connections."""
        skips = []
        for level, side in enumerate(self.sides):
            key = f'{side}x{side}'
            if level == 0:
                self._add(f'enc.{key}_conv', Conv2d(self.channels, width, 3))
            else:
                self._add(f'enc.{key}_down', block(width, width, mode='down'))
                self._add_auxiliary(key, width)
                self._tap(f'down.{level - 1}', width, side)
            skips.append(width)
            for j in range(self.num_blocks):
                cin, width = width, self.widths[level]
                attend = side in self.attn_resolutions
                heads = self._num_heads(width) if attend else 0
                self._add(f'enc.{key}_block{j}', block(cin, width, num_heads=heads))
                self._tap(f'down.{level}.{j}', width, side)
                skips.append(width)
        self._tap(f'down.{level}', width, side)
        return skips

    def _build_decoder(self, block: partial, skips: list[int]) -> None:
        """Add the middle, the decoder and the output."""
        width = self.widths[-1]
        for i, side in enumerate(reversed(self.sides)):
            key = f'{side}x{side}'
            if i == 0:
                heads = self._num_heads(width)
                self._add(f'dec.{key}_in0', block(width, width, num_heads=heads))
                self._add(f'dec.{key}_in1', block(width, width))
                self._tap('mid', width, side)
            else:
                self._add(f'dec.{key}_up', block(width, width, mode='up'))
                self._tap(f'up.{i - 1}', width, side)
            for j in range(self.num_blocks + 1):
                cin, width = width + skips.pop(), self.widths[-1 - i]
                attend = side in self.attn_resolutions
                if self.attend_last_only and j < self.num_blocks:
                    attend = False
                heads = self._num_heads(width) if attend else 0
                self._add(f'dec.{key}_block{j}', block(cin, width, num_heads=heads))
                self._tap(f'up.{i}.{j}', width, side)
        self._tap(f'up.{i}', width, side)
        self._add(f'{self._output_path(key)}_norm', group_norm(width, self.eps))
        self._add(f'{self._output_path(key)}_conv', Conv2d(width, self.channels, 3))

    def _add(self, path: str, module: nn.Module) -> None:
        """Append a module in the order of execution."""
        parent, _, name = path.rpartition('.')
        self.get_submodule(parent).add_module(name, module)
        self._paths.append(path)

    def _tap(self, name: str, channels: int, side: int) -> None:
        """Name the output of the last module, of resolution ``side``."""
        stride = self.sides[0] // side
        self.feature_info.append(FeatureInfo(name, channels, stride))
        self._depths[name] = len(self._paths)

    # Running ------------------------------------------------------------------------

    def run_blocks(
        self,
        x: Tensor,
        noise: Tensor,
        labels: Tensor | None = None,
        augment: Tensor | None = None,
    ) -> Blocks:
        """Yield ``(tap, output)`` in the order of ``feature_info``, then ``'output'``.

        Args:
            x: Scaled input, (N, C, H, W).
            noise: Noise labels, (N,).
            labels: One-hot classes, (N, label_dim); ``None`` is no class, zeros.
            augment: Augmentations, (N, augment_dim); ``None`` is none, zeros.
        """
        if labels is None:
            labels = x.new_zeros(len(x), self.label_dim)
        if augment is None:
            augment = x.new_zeros(len(x), self.augment_dim)
        emb = self._embed(noise, labels, augment)
        skips = yield from self._encode(x, emb)
        yield from self._decode(skips[-1], emb, skips)

    def _encode(
        self, x: Tensor, emb: Tensor
    ) -> Generator[tuple[str, Tensor], None, list[Tensor]]:
        """Yield the encoder's taps; return the skip connections."""
        skips, aux = [], x
        for level, side in enumerate(self.sides):
            key = f'{side}x{side}'
            if level == 0:
                x = self.enc[f'{key}_conv'](x)
            else:
                x = self._run(self.enc[f'{key}_down'], x, emb)
                x, aux = self._join_auxiliary(key, x, aux)
                yield f'down.{level - 1}', x
            skips.append(x)
            for j in range(self.num_blocks):
                x = self._run(self.enc[f'{key}_block{j}'], x, emb)
                yield f'down.{level}.{j}', x
                skips.append(x)
        yield f'down.{level}', x
        return skips

    def _decode(self, x: Tensor, emb: Tensor, skips: list[Tensor]) -> Blocks:
        """Yield the taps of middle and decoder, and the output."""
        for i, side in enumerate(reversed(self.sides)):
            key = f'{side}x{side}'
            if i == 0:
                x = self._run(self.dec[f'{key}_in0'], x, emb)
                x = self._run(self.dec[f'{key}_in1'], x, emb)
                yield 'mid', x
            else:
                x = self._run(self.dec[f'{key}_up'], x, emb)
                yield f'up.{i - 1}', x
            for j in range(self.num_blocks + 1):
                x = torch.cat([x, skips.pop()], dim=1)
                x = self._run(self.dec[f'{key}_block{j}'], x, emb)
                yield f'up.{i}.{j}', x
        yield f'up.{i}', x
        x = F.silu(self.get_submodule(f'{self._output_path(key)}_norm')(x))
        yield 'output', self.get_submodule(f'{self._output_path(key)}_conv')(x)

    def _run(self, block: UNetBlock, x: Tensor, emb: Tensor) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, x, emb, use_reentrant=False)
        return block(x, emb)

    def _drop_labels(self, labels: Tensor) -> Tensor:
        """Take the class of some training samples away."""
        if not (self.training and self.label_dropout):
            return labels
        keep = torch.rand(len(labels), 1, device=labels.device)
        return labels * (keep >= self.label_dropout)

    def forward(
        self,
        x: Tensor,
        noise: Tensor,
        labels: Tensor | None = None,
        augment: Tensor | None = None,
    ) -> Tensor:
        """Return the output for the scaled input; arguments as :meth:`run_blocks`."""
        for _, output in self.run_blocks(x, noise, labels, augment):  # noqa: B007
            pass
        return output

    def truncate(self, deepest: str) -> None:
        """Delete everything that runs after the tap ``deepest``."""
        depth = self._depths[deepest]
        for path in self._paths[depth:]:
            parent, _, name = path.rpartition('.')
            delattr(self.get_submodule(parent), name)
        self._paths = self._paths[:depth]
        self.feature_info = [
            info for info in self.feature_info if self._depths[info.name] <= depth
        ]
