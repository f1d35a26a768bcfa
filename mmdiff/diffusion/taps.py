"""Taps into diffusers' UNet2DModel: names, early exit, and what lies past them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from diffusers import UNet2DModel
from torch import Tensor, nn


class FeatureInfo(NamedTuple):
    """Name, number of channels, and stride to the image of one tap."""

    name: str
    channels: int
    stride: int


def resolve_taps(
    infos: Sequence[FeatureInfo], taps: Sequence[str | int]
) -> list[FeatureInfo]:
    """Turn names or indices (negatives count from the end) into taps.

    Raises:
        ValueError: For a name or an index that the network does not have.
    """
    by_name, count = {info.name: info for info in infos}, len(infos)
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
            if not -count <= tap < count:
                raise ValueError(
                    f'Tap index {tap} is out of range; the network has {count} '
                    f'taps, 0 to {count - 1} (see feature_info).'
                )
            found.append(infos[tap])
    return found


def describe_taps(unet: nn.Module, input_stride: int = 1) -> list[FeatureInfo]:
    """All taps of a diffusers U-Net in the order of execution.

    Args:
        unet: ``UNet2DModel`` or ``UNet2DConditionModel``.
        input_stride: Pixels of the image per pixel of the U-Net's input.
    """
    infos, stride = [], input_stride
    for i, block in enumerate(unet.down_blocks):
        for j, layer in enumerate(block.resnets):
            infos.append(FeatureInfo(f'down.{i}.{j}', layer.out_channels, stride))
        channels = infos[-1].channels
        if getattr(block, 'downsamplers', None) is not None:
            stride *= 2
        infos.append(FeatureInfo(f'down.{i}', channels, stride))
    if unet.mid_block is not None:
        infos.append(FeatureInfo('mid', infos[-1].channels, stride))
    for i, block in enumerate(unet.up_blocks):
        for j, layer in enumerate(block.resnets):
            infos.append(FeatureInfo(f'up.{i}.{j}', layer.out_channels, stride))
        channels = infos[-1].channels
        if (
            getattr(block, 'upsamplers', None) is not None
            or getattr(block, 'resnet_up', None) is not None
        ):
            stride //= 2
        infos.append(FeatureInfo(f'up.{i}', channels, stride))
    return infos


@contextmanager
def record_layers(
    unet: UNet2DModel, names: set[str], out: dict[str, Tensor]
) -> Iterator[None]:
    """Record the outputs of the layers in ``names`` while blocks run."""
    handles = []
    for name in names:
        side, *rest = name.split('.')
        if len(rest) < 2:
            continue  # the output of a block
        block = getattr(unet, f'{side}_blocks')[int(rest[0])]
        layer = block.resnets[int(rest[1])]
        attentions = getattr(block, 'attentions', None)
        # Skip blocks have one attention after all their layers, or a None.
        if attentions is not None and len(attentions) == len(block.resnets):
            layer = attentions[int(rest[1])] or layer

        def record(_module, _args, output, name=name):
            # Transformers of latent U-Nets give tuples.
            out[name] = output[0] if isinstance(output, tuple) else output

        handles.append(layer.register_forward_hook(record))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def tap_outputs(
    unet: nn.Module,
    sample: Tensor,
    t: Tensor,
    cond: Tensor | None,
    names: Sequence[str],
    run: Callable[..., Iterator[tuple[str, Tensor]]] | None = None,
) -> dict[str, Tensor]:
    """Outputs of the taps ``names``; no block past the deepest of them runs.

    Args:
        unet: A diffusers U-Net.
        sample: Its noised input, (N, C, H, W).
        t: Timesteps, (N,).
        cond: What the network is conditioned on.
        names: Names of taps.
        run: Runs the network block by block, as :func:`run_blocks` (the default).
    """
    out: dict[str, Tensor] = {}
    with record_layers(unet, set(names), out):
        for name, value in (run or run_blocks)(unet, sample, t, cond):
            out[name] = value
            if all(n in out for n in names):
                break
    return out


def run_blocks(
    unet: UNet2DModel, sample: Tensor, t: Tensor, cond: Tensor | None
) -> Iterator[tuple[str, Tensor]]:
    """Yield ``(name, output)`` block by block, as diffusers' forward runs them.

    Args:
        unet: The network.
        sample: Its noised input, (N, C, H, W).
        t: Timesteps, (N,).
        cond: Class labels, (N,), of a class-conditional network.

    Raises:
        ValueError: For a missing or superfluous ``cond``.
    """
    # 0. center input if necessary
    if unet.config.center_input_sample:
        sample = 2 * sample - 1.0
    # 1. time
    emb = unet.time_embedding(unet.time_proj(t).to(unet.dtype))
    if (cond is None) != (unet.class_embedding is None):
        raise ValueError(
            'This prior is class-conditional: give a class (condition=...).'
            if cond is None
            else 'This prior is unconditional: leave the condition out.'
        )
    if cond is not None:
        if unet.config.class_embed_type == 'timestep':
            cond = unet.time_proj(cond)
        emb = emb + unet.class_embedding(cond).to(unet.dtype)
    # 2. pre-process
    skip_sample = sample
    sample = unet.conv_in(sample)
    # 3. down
    residuals = (sample,)
    for i, block in enumerate(unet.down_blocks):
        if hasattr(block, 'skip_conv'):
            sample, res, skip_sample = block(sample, emb, skip_sample)
        else:
            sample, res = block(sample, emb)
        residuals += res
        yield f'down.{i}', sample
    # 4. mid
    if unet.mid_block is not None:
        sample = unet.mid_block(sample, emb)
        yield 'mid', sample
    # 5. up
    skip_sample = None
    for i, block in enumerate(unet.up_blocks):
        count = len(block.resnets)
        res, residuals = residuals[-count:], residuals[:-count]
        if hasattr(block, 'skip_conv'):
            sample, skip_sample = block(sample, res, emb, skip_sample)
        else:
            sample = block(sample, res, emb)
        yield f'up.{i}', sample


def truncate_unet(unet: UNet2DModel, deepest: str) -> None:
    """Delete every block that runs after the one of the tap ``deepest``."""
    side, *rest = deepest.split('.')
    if side == 'down':
        unet.down_blocks = unet.down_blocks[: int(rest[0]) + 1]
        unet.mid_block = None
    if side == 'up':
        unet.up_blocks = unet.up_blocks[: int(rest[0]) + 1]
    else:
        unet.up_blocks = nn.ModuleList()
    unet.conv_norm_out = unet.conv_out = None
