"""Convert checkpoints of guided-diffusion (ADM) to diffusers' ``UNet2DModel``.

The network is that of Dhariwal and Nichol 2021, the names on the other side are those
of https://github.com/openai/guided-diffusion (MIT). ``adm_presets.json`` has its flags
with their defaults, and the flags of the released checkpoints, from its README.
"""

import re

import torch
from diffusers import UNet2DModel
from torch import Tensor

from ...utils.files import whole_folder
from ..ddpm import DDPMDiffusionModel
from ..schedule import build_scheduler
from ..unets import build_unet
from .adm_flags import (
    CHANNEL_MULTS,
    DEFAULTS,
    PRESETS,
    count_classes,
    read_flag_file,
    read_flags,
)
from .restricted_pickle import load_state_dict

__all__ = ['DEFAULTS', 'PRESETS', 'adm_unet_config', 'convert_adm', 'read_flags']

# Modules of UNet2DModel, and layers of its blocks, by their names in guided-diffusion.
_NAMES = {
    'conv_in': 'input_blocks.0.0',
    'class_embedding': 'label_emb',
    'time_embedding.linear_1': 'time_embed.0',
    'time_embedding.linear_2': 'time_embed.2',
    'conv_norm_out': 'out.0',
    'conv_out': 'out.2',
    'norm1': 'in_layers.0',
    'conv1': 'in_layers.2',
    'norm2': 'out_layers.0',
    'conv2': 'out_layers.3',
    'time_emb_proj': 'emb_layers.1',
    'conv_shortcut': 'skip_connection',
    'group_norm': 'norm',
    'to_q': 'qkv',
    'to_k': 'qkv',
    'to_v': 'qkv',
    'to_out.0': 'proj_out',
}


def adm_unet_config(flags: dict) -> dict:
    """Turn flags of guided-diffusion into arguments of :func:`build_unet`.

    Args:
        flags: ``image_size``, ``num_channels``, ...; see :func:`read_flags`.

    Raises:
        ValueError: If flags are wrong or make no network.
    """
    flags = read_flags(flags)
    widths, attention = read_levels(flags)
    check_widths(flags, widths, attention)
    base, per_head = flags['num_channels'], flags['num_head_channels']
    down_types, up_types = block_types(attention, flags['resblock_updown'])
    resample = 'resnet' if flags['resblock_updown'] else 'conv'
    scale_shift = 'scale_shift' if flags['use_scale_shift_norm'] else 'default'
    config = dict(
        sample_size=flags['image_size'],
        out_channels=6 if flags['learn_sigma'] else 3,
        block_out_channels=widths,
        layers_per_block=flags['num_res_blocks'],
        down_block_types=down_types,
        up_block_types=up_types,
        downsample_type=resample,
        upsample_type=resample,
        resnet_time_scale_shift=scale_shift,
        attn_norm_num_groups=32,
        attention_head_dim=None if per_head == -1 else per_head,
        time_embedding_dim=4 * base,
        num_class_embeds=flags['num_classes'] if flags['class_cond'] else None,
        dropout=flags['dropout'],
    )
    # What build_unet adds to UNet2DModel is kept to the networks that need it.
    if widths[0] != base:
        config['time_proj_channels'] = base
    if per_head == -1:
        config['num_attention_heads'] = flags['num_heads']
    return config


def read_levels(flags: dict) -> tuple[list[int], list[bool]]:
    """Return the channels of every level, and which of them have attention.

    Raises:
        ValueError: If ``channel_mult`` or ``attention_resolutions`` cannot be read.
    """
    size = flags['image_size']
    try:
        mults = (flags['channel_mult'] or CHANNEL_MULTS[size]).split(',')
        widths = [int(float(mult) * flags['num_channels']) for mult in mults]
        sides = flags['attention_resolutions'].split(',')
        strides = {size // int(side) for side in sides}
    except (KeyError, ValueError, ZeroDivisionError):
        raise ValueError(
            'channel_mult and attention_resolutions are numbers between commas, as '
            f'"1,2,2"; channel_mult may be left out for image_size in '
            f'{[*CHANNEL_MULTS]}, not {size}.'
        ) from None
    return widths, [2**level in strides for level in range(len(widths))]


def check_widths(flags: dict, widths: list[int], attention: list[bool]) -> None:
    """Complain about channels that norms or heads do not divide.

    Raises:
        ValueError: If there are any.
    """
    heads, per_head = flags['num_heads'], flags['num_head_channels']
    unit = heads if per_head == -1 else per_head
    # The middle always has attention.
    attended = [w for w, attend in zip(widths, attention) if attend] + widths[-1:]
    if unit < 1 or any(w % 32 for w in widths) or any(w % unit for w in attended):
        raise ValueError(
            f'Levels of {widths} channels do not divide by the 32 groups of the norms '
            f'or by num_heads={heads} / num_head_channels={per_head}.'
        )


def block_types(
    attention: list[bool], resblock_updown: bool
) -> tuple[list[str], list[str]]:
    """Name diffusers' classes of the blocks on the way down and up."""
    plain = 'Resnet{}sampleBlock2D' if resblock_updown else '{}Block2D'
    types = ['Attn{}Block2D' if attend else plain for attend in attention]
    return (
        [kind.format('Down') for kind in types],
        [kind.format('Up') for kind in reversed(types)],
    )


def adm_schedule(flags: dict) -> dict:
    """Turn flags of guided-diffusion into arguments of :func:`build_scheduler`."""
    flags = read_flags(flags)
    steps = flags['diffusion_steps']
    schedule = dict(
        beta_schedule='squaredcos_cap_v2',
        num_train_timesteps=steps,
        prediction_type='sample' if flags['predict_xstart'] else 'epsilon',
        variance_type='learned_range' if flags['learn_sigma'] else 'fixed_large',
    )
    if flags['noise_schedule'] == 'linear':
        schedule.update(
            beta_schedule='linear', beta_start=0.1 / steps, beta_end=20 / steps
        )
    return schedule


def adm_name(name: str, unet: UNet2DModel) -> str:
    """Return guided-diffusion's name of the parameter ``name`` of ``unet``."""
    module, _, parameter = name.rpartition('.')
    if module in _NAMES:
        return f'{_NAMES[module]}.{parameter}'
    pattern = r'(down|mid|up)_blocks?\.(?:(\d+)\.)?([a-z]+)\.(\d+)\.(.+)'
    side, i, kind, j, layer = re.fullmatch(pattern, module).groups()
    block = _adm_block(side, int(i or 0), kind, int(j), unet)
    layer = 'op' if (kind, layer) == ('downsamplers', 'conv') else layer
    return f'{block}.{_NAMES.get(layer, layer)}.{parameter}'


def _adm_block(side: str, i: int, kind: str, j: int, unet: UNet2DModel) -> str:
    """Return guided-diffusion's name of a resnet, attention or resampler.

    Args:
        side: ``'down'``, ``'mid'`` or ``'up'``.
        i: Number of the block in diffusers.
        kind: ``'resnets'``, ``'attentions'``, ``'downsamplers'`` or ``'upsamplers'``.
        j: Number within the block.
        unet: The network.
    """
    slot = int(kind == 'attentions')
    if side == 'mid':
        return f'middle_block.{2 * j + slot}'
    # Blocks are numbered through: per level its layers, then its resampler.
    layers = unet.config.layers_per_block
    if kind == 'upsamplers':  # lies in the block of the level's last layer
        slot = 1 + ('Attn' in unet.config.up_block_types[i])
    number = i * (layers + 1) + (layers if kind.endswith('samplers') else j)
    if side == 'down':
        return f'input_blocks.{1 + number}.{slot}'
    return f'output_blocks.{number}.{slot}'


def adm_shapes(unet: UNet2DModel) -> dict[str, tuple[int, ...]]:
    """List names and shapes of the checkpoint that fits ``unet``."""
    shapes = {}
    for name, value in unet.state_dict().items():
        name, shape = adm_name(name, unet), tuple(value.shape)
        if name.endswith(('.qkv.weight', '.proj_out.weight')):
            shape += (1,)  # a convolution over positions
        if '.qkv.' in name:
            shape = (3 * shape[0], *shape[1:])
        shapes[name] = shape
    return shapes


def _mismatches(state: dict[str, Tensor], unet: UNet2DModel) -> list[str]:
    given = {name: tuple(value.shape) for name, value in state.items()}
    needed = adm_shapes(unet)
    return [
        f'{name!r} (given {given.get(name)}, needed {needed.get(name)})'
        for name in {**needed, **given}
        if given.get(name) != needed.get(name)
    ]


def adm_state_dict(
    state: dict[str, Tensor], unet: UNet2DModel, new_attention_order: bool = False
) -> dict[str, Tensor]:
    """Rename the weights of ADM for ``unet`` and split its joint attention weights.

    Args:
        state: State dict of guided-diffusion's ``UNetModel``.
        unet: The network to fill; on the meta device will do.
        new_attention_order: The 3C outputs of ``qkv`` are q, k, v of all heads;
            otherwise they are q, k, v of the first head, then of the second, ...

    Raises:
        ValueError: If names or shapes are not those of ``unet``.
    """
    odd = _mismatches(state, unet)
    if odd:
        raise ValueError(
            f'{len(odd)} weights are not those of the network, as {odd[0]}; give '
            'another preset or config (without both, the preset follows from the '
            'shapes).'
        )
    weights = {}
    for name, target in unet.state_dict().items():
        value = state[adm_name(name, unet)].float()
        joint = re.fullmatch(r'(.+)\.to_([qkv])\.\w+', name)
        if joint:
            heads = 1 if new_attention_order else unet.get_submodule(joint[1]).heads
            value = value.unflatten(0, (heads, 3, -1))[:, 'qkv'.index(joint[2])].clone()
        weights[name] = value.reshape(target.shape)
    return weights


def build_empty(flags: dict) -> UNet2DModel:
    """Build the network for flags of guided-diffusion, without weights."""
    with torch.device('meta'):
        return build_unet(adm_unet_config(flags))


def convert_adm(
    source: str, out: str, preset: str | None = None, config: str | None = None
) -> str:
    """Convert a ``.pt`` of guided-diffusion to a folder that ``DiffusionModel`` reads.

    Args:
        source: State dict written by ``torch.save`` (the released files, or
            ``ema_*.pt`` of a training run).
        out: Folder to write; it must not exist. It appears whole or not at all.
        preset: Name of a released model; ``None`` finds it by names and shapes, which
            do not show attention order, heads and schedule of other people's models.
        config: JSON file with guided-diffusion's flags (``image_size``, ...).

    Returns:
        The preset or config that was used.

    Raises:
        FileNotFoundError: If ``source`` is missing.
        FileExistsError: If ``out`` exists.
        ValueError: If a file cannot be read or does not fit.
    """
    if preset is not None and (config is not None or preset not in PRESETS):
        raise ValueError(
            f'preset={preset!r}: give one of {", ".join(PRESETS)}, or a config.'
        )
    with whole_folder(out) as folder:
        state = load_state_dict(source)
        if config is not None:
            flags = read_flag_file(config)
        else:
            preset = preset or find_preset(state, source)
            flags = PRESETS[preset]
        flags = count_classes(flags, state)
        unet = build_empty(flags)
        order = read_flags(flags)['use_new_attention_order']
        unet.load_state_dict(adm_state_dict(state, unet, order), assign=True)
        scheduler = build_scheduler(adm_schedule(flags))
        DDPMDiffusionModel(unet, scheduler).save_pretrained(folder)
    return str(preset or config)


def find_preset(state: dict[str, Tensor], source: str) -> str:
    """Find the released model that has these names and shapes.

    Raises:
        ValueError: If none has, or more than one.
    """
    networks = {k: build_empty(count_classes(PRESETS[k], state)) for k in PRESETS}
    fits = [k for k, unet in networks.items() if not _mismatches(state, unet)]
    if len(fits) != 1:
        raise ValueError(
            f'{source} fits {" and ".join(fits) or "no preset"} by names and '
            f'shapes; give preset ({", ".join(PRESETS)}) or a config of flags.'
        )
    return fits[0]
