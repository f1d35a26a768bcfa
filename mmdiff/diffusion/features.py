"""Taps: the named features of a denoiser's U-Net, and what lies past them.

Taps are named after diffusers' blocks: ``down.0``, ``mid``, ``up.1`` is the output of a
block (past its down- or upsampler), ``up.1.0`` the output of its first layer.
"""

from __future__ import annotations  # compilers do not know what unions are

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from numbers import Integral
from typing import NamedTuple

from torch import Tensor, nn


class FeatureInfo(NamedTuple):
    """Name, number of channels, and stride to the image of one tap.

    Example:
        >>> FeatureInfo('up.1', channels=64, stride=8).stride
        8
    """

    name: str
    channels: int
    stride: int


def resolve_taps(
    infos: Sequence[FeatureInfo], taps: Sequence[str | int]
) -> list[FeatureInfo]:
    """Turn names or indices (negatives count from the end) into taps.

    Args:
        infos: All taps of a network, in the order of execution.
        taps: The taps to look up.

    Raises:
        ValueError: If the network does not have a name or an index, or none is given.
    """
    if not taps:
        raise ValueError('No tap is given; name one at least (out_indices).')
    return [_resolve_tap(infos, tap) for tap in taps]


def _resolve_tap(infos: Sequence[FeatureInfo], tap: str | int) -> FeatureInfo:
    if isinstance(tap, str):
        by_name = {info.name: info for info in infos}
        if tap not in by_name:
            raise ValueError(
                f'There is no tap {tap!r}; the taps of this network are outputs of '
                f'blocks and layers, none inside attention: {", ".join(by_name)}.'
            )
        return by_name[tap]
    if isinstance(tap, bool) or not isinstance(tap, Integral):
        raise ValueError(f'A tap is a name or a whole number, not {tap!r}.')
    count = len(infos)
    if not -count <= tap < count:
        raise ValueError(
            f'Tap index {tap} is out of range; the network has {count} taps, 0 to '
            f'{count - 1} (see feature_info).'
        )
    return infos[tap]


def take_taps(
    blocks: Iterable[tuple[str, Tensor]],
    names: Sequence[str],
    layers: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return the outputs of the taps ``names``; nothing past the deepest of them runs.

    Args:
        blocks: Runs a network and yields ``(tap, output)`` as it goes.
        names: Names of the taps.
        layers: Outputs of layers inside blocks, filled while the blocks run.
    """
    layers = {} if layers is None else layers
    outputs: dict[str, Tensor] = {}
    for tap, output in blocks:
        if tap in names:
            outputs[tap] = output
        if all(name in outputs or name in layers for name in names):
            break
    return {name: layers[name] if name in layers else outputs[name] for name in names}


# --------------------------------------------------------------------------------------
# The U-Nets of diffusers: UNet2DModel and UNet2DConditionModel.


def describe_taps(unet: nn.Module, input_stride: int = 1) -> list[FeatureInfo]:
    """List all taps of a diffusers U-Net in the order of execution.

    Args:
        unet: A ``UNet2DModel`` or a ``UNet2DConditionModel``.
        input_stride: Pixels of the image per pixel of the U-Net's input.
    """
    infos, stride = [], input_stride
    for i, block in enumerate(unet.down_blocks):
        infos += _layer_taps(f'down.{i}', block, stride)
        if _has_part(block, 'downsamplers'):
            stride *= 2
        infos.append(FeatureInfo(f'down.{i}', infos[-1].channels, stride))
    if unet.mid_block is not None:
        infos.append(FeatureInfo('mid', infos[-1].channels, stride))
    for i, block in enumerate(unet.up_blocks):
        infos += _layer_taps(f'up.{i}', block, stride)
        if _has_part(block, 'upsamplers') or _has_part(block, 'resnet_up'):
            stride //= 2
        infos.append(FeatureInfo(f'up.{i}', infos[-1].channels, stride))
    return infos


def _layer_taps(name: str, block: nn.Module, stride: int) -> list[FeatureInfo]:
    return [
        FeatureInfo(f'{name}.{j}', layer.out_channels, stride)
        for j, layer in enumerate(block.resnets)
    ]


def _has_part(block: nn.Module, name: str) -> bool:
    return getattr(block, name, None) is not None


class LayerRecorder:
    """Records the outputs of layers inside blocks while the blocks run.

    It is a context that gives a dictionary, which fills as the layers run. A class, so
    that compilers see through it where there is no layer to record; hooks they do not.

    Args:
        unet: A diffusers U-Net.
        names: Names of taps; those of whole blocks are passed over.
    """

    def __init__(self, unet: nn.Module, names: Iterable[str]) -> None:
        self.outputs: dict[str, Tensor] = {}
        # The others are outputs of blocks.
        inner = dict.fromkeys(name for name in names if name.count('.') == 2)
        self.layers = {name: _layer_of(unet, name) for name in inner}
        self.handles: list = []

    def __enter__(self) -> dict[str, Tensor]:
        for name, layer in self.layers.items():
            record = partial(_record_output, self.outputs, name)
            self.handles.append(layer.register_forward_hook(record))
        return self.outputs

    def __exit__(self, *error: object) -> None:
        for handle in self.handles:
            handle.remove()


def _record_output(
    outputs: dict[str, Tensor],
    name: str,
    _module: nn.Module,
    _args: tuple,
    output: Tensor | tuple,
) -> None:
    """Forward hook: keep the output; transformers of latent U-Nets give tuples."""
    outputs[name] = output[0] if isinstance(output, tuple) else output


def _layer_of(unet: nn.Module, name: str) -> nn.Module:
    """Return the module whose output is the tap ``name`` of a layer."""
    side, i, j = name.split('.')
    block = getattr(unet, f'{side}_blocks')[int(i)]
    attentions = getattr(block, 'attentions', None)
    # Skip blocks have one attention after all their layers, or a None.
    if attentions is not None and len(attentions) == len(block.resnets):
        return attentions[int(j)] or block.resnets[int(j)]
    return block.resnets[int(j)]


def run_blocks(
    unet: nn.Module,
    sample: Tensor,
    t: Tensor,
    labels: Tensor | None = None,
    text: Tensor | None = None,
    added: dict[str, Tensor] | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield ``(name, output)`` block by block, as diffusers' own forward runs them.

    Args:
        unet: A ``UNet2DModel`` or a ``UNet2DConditionModel``.
        sample: Its noised input, (N, C, H, W).
        t: Timesteps, (N,).
        labels: Classes, (N,), of a class-conditional network.
        text: Embeddings of prompts, (N, L, D), of a network with cross-attention.
        added: What is added to the embedding of time (SDXL), by diffusers' names.

    Raises:
        ValueError: If ``labels`` are missing or superfluous.
    """

    def run(block: nn.Module, *args) -> Tensor | tuple:
        if getattr(block, 'has_cross_attention', False):
            return block(*args, encoder_hidden_states=text)
        return block(*args)

    # 0. center input if necessary
    if unet.config.center_input_sample:
        sample = 2 * sample - 1.0
    # 1. time
    emb = _embed(unet, t, labels, added)
    # 2. pre-process
    rgb = sample  # what skip blocks carry along beside the features
    sample = unet.conv_in(sample)
    # 3. down
    residuals = (sample,)
    for i, block in enumerate(unet.down_blocks):
        if hasattr(block, 'skip_conv'):
            sample, outputs, rgb = run(block, sample, emb, rgb)
        else:
            sample, outputs = run(block, sample, emb)
        residuals += outputs
        yield f'down.{i}', sample
    # 4. mid
    if unet.mid_block is not None:
        sample = run(unet.mid_block, sample, emb)
        yield 'mid', sample
    # 5. up
    rgb = None
    for i, block in enumerate(unet.up_blocks):
        count = len(block.resnets)
        inputs, residuals = residuals[-count:], residuals[:-count]
        if hasattr(block, 'skip_conv'):
            sample, rgb = run(block, sample, inputs, emb, rgb)
        else:
            sample = run(block, sample, inputs, emb)
        yield f'up.{i}', sample


def _embed(
    unet: nn.Module,
    t: Tensor,
    labels: Tensor | None,
    added: dict[str, Tensor] | None,
) -> Tensor:
    """Embed time, class and what is added to them, (N, D)."""
    emb = unet.time_embedding(unet.time_proj(t).to(unet.dtype))
    if labels is None and unet.class_embedding is not None:
        raise ValueError(
            'This prior is class-conditional: give a class (condition=...).'
        )
    if labels is not None and unet.class_embedding is None:
        raise ValueError('This prior is unconditional: leave the condition out.')
    if labels is not None:
        if unet.config.class_embed_type == 'timestep':
            labels = unet.time_proj(labels)
        emb = emb + unet.class_embedding(labels).to(unet.dtype)
    if added is not None:
        emb = emb + unet.get_aug_embed(emb, None, added)
    activation = getattr(unet, 'time_embed_act', None)
    return emb if activation is None else activation(emb)


def truncate_unet(unet: nn.Module, deepest: str) -> None:
    """Delete every block that runs after the block of the tap ``deepest``.

    Args:
        unet: A diffusers U-Net. It predicts nothing from then on.
        deepest: Name of a tap.
    """
    side, *index = deepest.split('.')
    if side == 'down':
        unet.down_blocks = unet.down_blocks[: int(index[0]) + 1]
        unet.mid_block = None
    if side == 'up':
        unet.up_blocks = unet.up_blocks[: int(index[0]) + 1]
    else:
        unet.up_blocks = nn.ModuleList()
    unet.conv_norm_out = unet.conv_out = None


def remaining_taps(infos: Sequence[FeatureInfo], deepest: str) -> list[FeatureInfo]:
    """Return the taps that are left after :func:`truncate_unet`.

    The layers of the deepest block stay with it.
    """
    block = '.'.join(deepest.split('.')[:2])
    last = max(
        i for i, info in enumerate(infos) if f'{info.name}.'.startswith(f'{block}.')
    )
    return list(infos[: last + 1])
