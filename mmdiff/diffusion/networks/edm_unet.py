"""DDPM++, NCSN++ and ADM's network as EDM trains them."""

import math
import re
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..taps import FeatureInfo
from .layers import Conv2d, NoiseEmbedding, Resample, UNetBlock, group_norm

# model_channels, channel_mult, num_blocks, attn_resolutions
DEFAULTS = {
    'SongUNet': (128, (1, 2, 2, 2), 4, (16,)),
    'DhariwalUNet': (192, (1, 2, 3, 4), 3, (32, 16, 8)),
}


class EDMUNet(nn.Module):
    """The U-Nets of Karras et al. 2022, app. F.6: convolutional, so for any size.

    Args:
        model_type: ``'SongUNet'`` (DDPM++, NCSN++; Song et al. 2021) or
            ``'DhariwalUNet'`` (ADM; Dhariwal and Nichol 2021).
        img_resolution: Side of the images that it was made for; blocks are named by it.
        channels: Of the image.
        label_dim: Number of classes; 0 is unconditional.
        augment_dim: Length of the vector that tells of augmentations; 0 is none.
        model_channels: Unit of the numbers of channels.
        channel_mult: Channels of each level, in that unit; each halves the resolution.
        channel_mult_emb: Channels of the embedding, in that unit.
        num_blocks: Blocks per level; the decoder has one more.
        attn_resolutions: Resolutions with self-attention.
        dropout: Inside the blocks.
        label_dropout: Share of the training samples that lose their class.
        embedding_type: SongUNet: ``'positional'`` (DDPM++) or ``'fourier'`` (NCSN++).
        channel_mult_noise: SongUNet: width of that embedding; 1, or 2 for NCSN++.
        encoder_type: SongUNet: ``'standard'`` (DDPM++), ``'residual'`` (NCSN++) or
            ``'skip'``.
        decoder_type: ``'standard'``, the only one that was published.
        resample_filter: SongUNet: (1, 1) for DDPM++, (1, 3, 3, 1) for NCSN++.

    Raises:
        ValueError: For an unknown type.
    """

    def __init__(
        self,
        model_type: str,
        img_resolution: int,
        channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int | None = None,
        channel_mult: Sequence[int] | None = None,
        channel_mult_emb: int = 4,
        num_blocks: int | None = None,
        attn_resolutions: Sequence[int] | None = None,
        dropout: float = 0.1,
        label_dropout: float = 0.0,
        embedding_type: str = 'positional',
        channel_mult_noise: int = 1,
        encoder_type: str = 'standard',
        decoder_type: str = 'standard',
        resample_filter: Sequence[float] = (1, 1),
    ) -> None:
        for name, value, known in (
            ('model_type', model_type, tuple(DEFAULTS)),
            ('embedding_type', embedding_type, ('positional', 'fourier')),
            ('encoder_type', encoder_type, ('standard', 'skip', 'residual')),
            ('decoder_type', decoder_type, ('standard',)),
        ):
            if value not in known:
                raise ValueError(f'{name}={value!r} is unknown; choose one of {known}.')
        super().__init__()
        given = model_channels, channel_mult, num_blocks, attn_resolutions
        unit, mults, self.num_blocks, self.attn_resolutions = (
            default if value is None else value
            for value, default in zip(given, DEFAULTS[model_type])
        )
        self.song = song = model_type == 'SongUNet'
        self.sides = [img_resolution >> level for level in range(len(mults))]
        self.widths = [unit * mult for mult in mults]
        self.channels, self.encoder_type = channels, encoder_type
        self.label_dim, self.augment_dim = label_dim, augment_dim
        self.label_dropout = label_dropout
        self.gradient_checkpointing = False

        noise, emb = unit * channel_mult_noise, unit * channel_mult_emb
        self.map_noise = NoiseEmbedding(noise, embedding_type == 'fourier', song)
        self.map_layer0, self.map_layer1 = nn.Linear(noise, emb), nn.Linear(emb, emb)
        if label_dim:
            self.map_label = nn.Linear(label_dim, noise if song else emb, bias=song)
        if augment_dim:
            self.map_augment = nn.Linear(augment_dim, noise, bias=False)
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        self.feature_info: list[FeatureInfo] = []
        # Path of each module in the order of execution, and taps that it completes.
        self.steps: list[tuple[str, tuple[str, ...]]] = []
        self._build(
            unit if song else self.widths[0],
            dict(emb_channels=emb, song=song, dropout=dropout, taps=resample_filter),
        )
        self._initialise()

    def _build(self, width: int, args: dict) -> None:
        def add(path: str, module: nn.Module, *taps: str) -> None:
            parent, _, name = path.rpartition('.')
            self.get_submodule(parent).add_module(name, module)
            self.steps.append((path, taps))
            stride = self.sides[0] // side
            self.feature_info += [FeatureInfo(tap, width, stride) for tap in taps]

        skips, aux = [], self.channels
        for level, side in enumerate(self.sides):
            key, attend = f'enc.{side}x{side}', side in self.attn_resolutions
            if level == 0:
                add(f'{key}_conv', Conv2d(self.channels, width, 3))
            else:
                parts = {'down': UNetBlock(width, width, mode='down', **args)}
                if self.encoder_type == 'skip':
                    parts['aux_down'] = Resample('down', args['taps'])
                    parts['aux_skip'] = Conv2d(aux, width, 1)
                elif self.encoder_type == 'residual':
                    parts['aux_residual'] = Conv2d(
                        aux, width, 3, 'down', args['taps'], fused=True
                    )
                    aux = width
                for name, part in parts.items():
                    last = name == [*parts][-1]
                    add(f'{key}_{name}', part, *[f'down.{level - 1}'][: int(last)])
            skips.append(width)
            for j in range(self.num_blocks):
                block = UNetBlock(width, self.widths[level], attend=attend, **args)
                skips.append(width := self.widths[level])
                ends = (level + 1, j + 1) == (len(self.sides), self.num_blocks)
                taps = [f'down.{level}.{j}', f'down.{level}'][: 1 + ends]
                add(f'{key}_block{j}', block, *taps)
        key = f'dec.{side}x{side}'
        add(f'{key}_in0', UNetBlock(width, width, attend=True, **args))
        add(f'{key}_in1', UNetBlock(width, width, **args), 'mid')
        for i, side in enumerate(reversed(self.sides)):
            key, attend = f'dec.{side}x{side}', side in self.attn_resolutions
            if i:
                block = UNetBlock(width, width, mode='up', **args)
                add(f'{key}_up', block, f'up.{i - 1}')
            for j in range(self.num_blocks + 1):
                here = attend and (j == self.num_blocks or not self.song)
                cin, width = width + skips.pop(), self.widths[-1 - i]
                block = UNetBlock(cin, width, attend=here, **args)
                taps = [f'up.{i}.{j}', f'up.{i}'][: 1 + (not skips)]
                add(f'{key}_block{j}', block, *taps)
        prefix = f'{key}_aux' if self.song else 'out'
        add(f'{prefix}_norm', group_norm(width, 1e-6 if self.song else 1e-5))
        add(f'{prefix}_conv', Conv2d(width, self.channels, 3))

    def _initialise(self) -> None:
        for name, module in self.named_modules():
            last = re.split(r'\.|x\d+_', name)[-1]
            weak = last in ('conv1', 'proj', 'aux_conv', 'out_conv')
            if not isinstance(module, (nn.Linear, nn.Conv2d)):
                continue
            if self.song:
                gain = 1e-5 if weak else math.sqrt(0.2) if last == 'qkv' else 1.0
                nn.init.xavier_uniform_(module.weight, gain)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif last == 'map_label':
                nn.init.normal_(module.weight)
            elif weak or last == 'map_augment':  # the others: as torch does
                for parameter in module.parameters():
                    nn.init.zeros_(parameter)

    def _embed(self, noise: Tensor, labels: Tensor, augment: Tensor) -> Tensor:
        emb, dtype = self.map_noise(noise), self.map_layer0.weight.dtype
        if self.song:  # sines first
            emb = emb.roll(emb.shape[1] // 2, dims=1)
        emb, label = emb.to(dtype), 0.0
        if self.label_dim:
            if self.training and self.label_dropout:
                keep = torch.rand(len(labels), 1, device=labels.device)
                labels = labels * (keep >= self.label_dropout)
            scale = math.sqrt(self.label_dim) if self.song else 1.0
            label = self.map_label(labels.to(dtype) * scale)
        if self.augment_dim:
            emb = emb + self.map_augment(augment.to(dtype))
        if self.song:
            emb, label = emb + label, 0.0
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))) + label)

    def run_blocks(
        self,
        x: Tensor,
        noise: Tensor,
        labels: Tensor | None = None,
        augment: Tensor | None = None,
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield ``(tap, output)`` in the order of ``feature_info``.

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
        aux, skips = x, []
        for path, taps in self.steps:
            block = self.get_submodule(path)
            if isinstance(block, UNetBlock):
                if path.startswith('dec') and '_block' in path:
                    x = torch.cat([x, skips.pop()], dim=1)
                if self.gradient_checkpointing and torch.is_grad_enabled():
                    x = checkpoint(block, x, emb, use_reentrant=False)
                else:
                    x = block(x, emb)
            elif path.endswith('_aux_down'):
                aux = block(aux)
            elif path.endswith('_aux_skip'):
                x = skips.pop() + block(aux)
            elif path.endswith('_aux_residual'):
                x = aux = (skips.pop() + block(aux)) * math.sqrt(0.5)
            else:
                x = F.silu(block(x)) if path.endswith('_norm') else block(x)
            if path.startswith('enc') and not path.endswith('_aux_down'):
                skips.append(x)
            yield from ((tap, x) for tap in taps)
        yield 'output', x

    def forward(self, *args, **kwargs) -> Tensor:
        """Prediction for the scaled input; arguments as :meth:`run_blocks`."""
        for _, x in self.run_blocks(*args, **kwargs):  # noqa: B007
            pass
        return x

    def truncate(self, deepest: str) -> None:
        """Delete everything that runs after the tap ``deepest``."""
        end = 1 + next(i for i, (_, taps) in enumerate(self.steps) if deepest in taps)
        for path, _ in self.steps[end:]:
            parent, _, name = path.rpartition('.')
            delattr(self.get_submodule(parent), name)
        self.steps = self.steps[:end]
        count = sum(len(taps) for _, taps in self.steps)
        self.feature_info = self.feature_info[:count]
