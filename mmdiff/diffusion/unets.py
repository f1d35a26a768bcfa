"""Build the networks of priors from their settings."""

from pathlib import Path

from diffusers import DDPMScheduler, UNet2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import nn

from .json_files import one_line
from .networks import EDMPrecond
from .weights import class_of, load_network, load_weights

# Settings that some published networks have and UNet2DModel lacks; kept in config.json.
EXTRAS = (
    'num_attention_heads',
    'time_proj_channels',
    'null_class',
    'num_class_heads',
)


def build_network(cls: type[nn.Module], args: dict) -> nn.Module:
    """Build a network of diffusers with random weights.

    Args:
        cls: Its class.
        args: Its arguments.

    Raises:
        ValueError: If they make no network.
    """
    try:
        return cls(**args)
    except (TypeError, ValueError, KeyError, IndexError, ZeroDivisionError) as error:
        raise ValueError(
            f'These arguments make no {cls.__name__}: {one_line(error)}'
        ) from None


def check_unet(config: dict, scheduler: DDPMScheduler) -> None:
    """Refuse a U-Net of diffusers that needs something else than whole timesteps.

    Args:
        config: Its settings.
        scheduler: The noise schedule that it runs with.

    Raises:
        ValueError: If time or class are embedded in a way that does not fit.
    """
    kind = config.get('time_embedding_type', 'positional')
    if kind == 'fourier':
        raise ValueError(
            "This U-Net has time_embedding_type='fourier' (as google/ncsnpp has): it "
            'expects noise levels of another process, not timesteps; take a prior with '
            "time_embedding_type='positional', or an EDM checkpoint by "
            'tools/convert_checkpoint.py.'
        )
    steps, known = len(scheduler.alphas_cumprod), config.get('num_train_timesteps')
    if kind == 'learned' and known != steps:
        raise ValueError(
            f'This U-Net has learned embeddings of {known} timesteps and the noise '
            f'schedule has {steps}; give the schedule that it was trained with.'
        )
    if config.get('quantization_config') is not None:
        raise ValueError(
            'The weights of this U-Net are quantised (quantization_config in its '
            'config.json), and gradients and features need them whole; give the '
            'original weights.'
        )
    if config.get('class_embed_type') == 'identity':
        raise ValueError(
            "This U-Net has class_embed_type='identity': it takes a vector where a "
            'condition is a class; take a prior with num_class_embeds, or without '
            'classes.'
        )


def infer_patch_size(config: dict) -> int:
    """Read the side of the patches off a U-Net's channels.

    Args:
        config: The settings of a ``UNet2DModel``.

    Raises:
        ValueError: If the channels are not those of patches of RGB images.
    """
    channels, out_channels = config.get('in_channels', 3), config.get('out_channels', 3)
    if config.get('num_class_heads'):  # checked by MultiHeadDiffusionModel
        out_channels //= config['num_class_heads']
    patch_size = round((channels / 3) ** 0.5)
    if patch_size < 1 or 3 * patch_size**2 != channels:
        raise ValueError(
            f'The U-Net has in_channels={channels}; a prior of RGB images has '
            '3 * patch_size**2 (3, 12, 48, ...).'
        )
    if out_channels not in (channels, 2 * channels):
        raise ValueError(
            f'The U-Net has in_channels={channels} and out_channels={out_channels}; a '
            f'denoiser gives back {channels}, or {2 * channels} with learned variance.'
        )
    return patch_size


def build_unet(config: dict) -> UNet2DModel:
    """Build a ``UNet2DModel`` with random weights.

    Args:
        config: Its arguments, and: ``num_attention_heads``, so many heads at every
            level in place of a fixed ``attention_head_dim``; ``time_proj_channels``,
            width of the sinusoidal embedding where it is not that of the first level;
            ``null_class``, the label of "no class" after training with label dropout;
            ``num_class_heads``, of a network that predicts for all classes at once.
    """
    config = {k: v for k, v in config.items() if not k.startswith('_')}
    extras = {key: config.pop(key) for key in EXTRAS if key in config}
    unet = build_network(UNet2DModel, config)
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


def load_unet(
    folder: Path, random_weights: bool = False, variant: str | None = None
) -> UNet2DModel:
    """Read a ``UNet2DModel``, with the settings that :func:`build_unet` adds.

    See :func:`load_network` for arguments and errors.
    """
    if class_of(folder) == 'UNet2DModel':
        config = UNet2DModel.load_config(folder)
        if any(config.get(key) is not None for key in EXTRAS):
            unet = build_unet(config)
            if not random_weights:
                load_weights(unet, folder, variant)
            return unet
    return load_network(UNet2DModel, folder, random_weights, variant)


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
