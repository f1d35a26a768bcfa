"""Build the networks of priors from their settings."""

from pathlib import Path

from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps

from .networks import EDMPrecond
from .weights import class_of, load_network, load_weights, one_line

# Settings that some published networks have and UNet2DModel lacks; kept in config.json.
EXTRAS = ('num_attention_heads', 'time_proj_channels', 'null_class')


def build_unet(config: dict) -> UNet2DModel:
    """Build a ``UNet2DModel`` with random weights.

    Args:
        config: Its arguments, and: ``num_attention_heads``, so many heads at every
            level in place of a fixed ``attention_head_dim``; ``time_proj_channels``,
            width of the sinusoidal embedding where it is not that of the first level;
            ``null_class``, the label of "no class" after training with label dropout.
    """
    config = {k: v for k, v in config.items() if not k.startswith('_')}
    extras = {key: config.pop(key) for key in EXTRAS if key in config}
    unet = UNet2DModel(**config)
    unet.register_to_config(**extras)
    if extras.get('num_attention_heads'):
        _set_heads(unet, extras['num_attention_heads'])
    if extras.get('time_proj_channels'):
        _set_time_channels(unet, extras['time_proj_channels'])
    return unet


def _set_heads(unet: UNet2DModel, heads: int) -> None:
    for module in unet.modules():
        if isinstance(module, Attention):
            width = module.inner_dim // heads
            module.heads = heads
            module.scale = width**-0.5


def _set_time_channels(unet: UNet2DModel, channels: int) -> None:
    unet.time_proj = Timesteps(
        channels, unet.config.flip_sin_to_cos, unet.config.freq_shift
    )
    unet.time_embedding = TimestepEmbedding(
        channels, unet.time_embedding.linear_2.out_features
    )


def load_unet(folder: Path, random_weights: bool = False) -> UNet2DModel:
    """Read a ``UNet2DModel``, with the settings that :func:`build_unet` adds.

    See :func:`load_network` for arguments and errors.
    """
    if class_of(folder) == 'UNet2DModel':
        config = UNet2DModel.load_config(folder)
        if any(config.get(key) is not None for key in EXTRAS):
            unet = build_unet(config)
            if not random_weights:
                load_weights(unet, folder)
            return unet
    return load_network(UNet2DModel, folder, random_weights)


def build_edm(config: dict) -> EDMPrecond:
    """Build an ``EDMPrecond`` with random weights.

    Args:
        config: Its arguments.

    Raises:
        ValueError: If they make no network.
    """
    try:
        return EDMPrecond(**{k: v for k, v in config.items() if k != '_class_name'})
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f'These arguments make no EDMPrecond: {one_line(error)}'
        ) from None
