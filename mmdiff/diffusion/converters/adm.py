"""Convert checkpoints of guided-diffusion (ADM) to diffusers' ``UNet2DModel``.

Dhariwal and Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis"; the names
on the other side are those of https://github.com/openai/guided-diffusion (MIT).
"""

import json
import re
import shutil
from pathlib import Path

import torch
from diffusers import UNet2DModel
from torch import Tensor

from ..diffusion_model import DiffusionModel
from ..loading import build_unet
from ..schedule import build_scheduler
from .restricted_pickle import load_state_dict

# Flags of guided-diffusion and their defaults; the last two lines change no network.
DEFAULTS = {
    **dict(image_size=64, num_channels=128, num_res_blocks=2, channel_mult=''),
    **dict(num_heads=4, num_heads_upsample=-1, num_head_channels=-1, dropout=0.0),
    **dict(attention_resolutions='16,8', class_cond=False, conv_resample=True),
    **dict(resblock_updown=False, use_scale_shift_norm=True, learn_sigma=False),
    **dict(use_new_attention_order=False, noise_schedule='linear'),
    **dict(diffusion_steps=1000, predict_xstart=False, rescale_timesteps=False),
    **dict(use_fp16=False, use_checkpoint=False, timestep_respacing=''),
    **dict(use_kl=False, rescale_learned_sigmas=False),
}
CHANNEL_MULTS = {
    **{64: '1,2,3,4', 128: '1,1,2,3,4', 256: '1,1,2,2,4,4', 512: '0.5,1,1,2,2,4,4'}
}
NUM_CLASSES = 1000
# The released checkpoints, by their flags in guided-diffusion's README.
_RELEASED = {
    **dict(num_channels=256, num_head_channels=64, attention_resolutions='32,16,8'),
    **dict(resblock_updown=True, learn_sigma=True),
}
_IMAGENET64 = {
    **dict(num_channels=192, num_res_blocks=3, use_new_attention_order=True),
    **dict(noise_schedule='cosine', dropout=0.1, image_size=64, class_cond=True),
}
PRESETS = {
    'imagenet64': {**_RELEASED, **_IMAGENET64},
    'imagenet128': dict(
        _RELEASED, image_size=128, class_cond=True, num_heads=4, num_head_channels=-1
    ),
    'imagenet256': dict(_RELEASED, image_size=256, class_cond=True),
    'imagenet256-uncond': dict(_RELEASED, image_size=256),
    'imagenet512': dict(_RELEASED, image_size=512, class_cond=True),
    'lsun256': dict(_RELEASED, image_size=256, dropout=0.1),
}
_NAMES = {
    **{'conv_in': 'input_blocks.0.0', 'class_embedding': 'label_emb'},
    **{f'time_embedding.linear_{i}': f'time_embed.{2 * i - 2}' for i in (1, 2)},
    **{'conv_norm_out': 'out.0', 'conv_out': 'out.2'},
    **{'norm1': 'in_layers.0', 'conv1': 'in_layers.2', 'norm2': 'out_layers.0'},
    **{'conv2': 'out_layers.3', 'time_emb_proj': 'emb_layers.1'},
    **{'conv_shortcut': 'skip_connection', 'group_norm': 'norm'},
    **{'to_q': 'qkv', 'to_k': 'qkv', 'to_v': 'qkv', 'to_out.0': 'proj_out'},
}


def read_flags(given: dict) -> dict:
    """Flags of guided-diffusion with its defaults for those left out.

    Raises:
        ValueError: For an unknown flag or type, and what diffusers cannot express.
    """
    for name, value in given.items():
        kind = type(DEFAULTS.get(name))
        if not isinstance(value, (float, int) if kind is float else kind):
            known = ', '.join(f'{k}={v!r}' for k, v in DEFAULTS.items())
            raise ValueError(
                f'{name}={value!r} is no flag of guided-diffusion; it has {known}.'
            )
    flags = {**DEFAULTS, **given}
    resamples = flags['conv_resample'] or flags['resblock_updown']
    heads_up, rescaled = flags['num_heads_upsample'], flags['rescale_timesteps']
    if (
        flags['noise_schedule'] not in ('linear', 'cosine')
        or (rescaled and flags['diffusion_steps'] != 1000)
        or not resamples
        or (heads_up not in (-1, flags['num_heads']) and flags['num_head_channels'] < 0)
    ):
        raise ValueError(
            'These flags are not supported: noise_schedule must be linear or cosine, '
            'rescale_timesteps False (but for 1000 diffusion_steps), conv_resample or '
            'resblock_updown True, num_heads_upsample as num_heads (or -1).'
        )
    return flags


def adm_unet_config(flags: dict) -> dict:
    """Arguments of :func:`build_unet` for flags of guided-diffusion.

    Args:
        flags: ``image_size``, ``num_channels``, ...; see :func:`read_flags`.

    Raises:
        ValueError: For flags that are wrong or make no network.
    """
    flags = read_flags(flags)
    size, base = flags['image_size'], flags['num_channels']
    heads, per_head = flags['num_heads'], flags['num_head_channels']
    try:
        mults = flags['channel_mult'] or CHANNEL_MULTS[size]
        widths = [int(float(mult) * base) for mult in mults.split(',')]
        strides = {size // int(r) for r in flags['attention_resolutions'].split(',')}
    except (KeyError, ValueError, ZeroDivisionError):
        raise ValueError(
            'channel_mult and attention_resolutions are numbers between commas, as '
            f'"1,2,2"; channel_mult may be left out for image_size in '
            f'{[*CHANNEL_MULTS]}, not {size}.'
        ) from None
    attention = [2**level in strides for level in range(len(widths))]
    unit = heads if per_head == -1 else per_head
    # The middle always has attention.
    attended = [w for w, a in zip(widths, attention) if a] + widths[-1:]
    if unit < 1 or any(w % 32 for w in widths) or any(w % unit for w in attended):
        raise ValueError(
            f'Levels of {widths} channels do not divide by the 32 groups of the norms '
            f'or by num_heads={heads} / num_head_channels={per_head}.'
        )
    resample, plain = 'conv', '{}Block2D'
    if flags['resblock_updown']:
        resample, plain = 'resnet', 'Resnet{}sampleBlock2D'
    types = ['Attn{}Block2D' if a else plain for a in attention]
    config = dict(
        sample_size=size,
        out_channels=6 if flags['learn_sigma'] else 3,
        block_out_channels=widths,
        layers_per_block=flags['num_res_blocks'],
        down_block_types=[kind.format('Down') for kind in types],
        up_block_types=[kind.format('Up') for kind in types[::-1]],
        downsample_type=resample,
        upsample_type=resample,
        resnet_time_scale_shift=(
            'scale_shift' if flags['use_scale_shift_norm'] else 'default'
        ),
        attn_norm_num_groups=32,
        attention_head_dim=None if per_head == -1 else per_head,
        time_embedding_dim=4 * base,
        num_class_embeds=NUM_CLASSES if flags['class_cond'] else None,
        dropout=flags['dropout'],
    )
    # What build_unet adds to UNet2DModel is kept to the networks that need it.
    if widths[0] != base:
        config['time_proj_channels'] = base
    if per_head == -1:
        config['num_attention_heads'] = heads
    return config


def adm_schedule(flags: dict) -> dict:
    """Arguments of :func:`build_scheduler` for flags of guided-diffusion."""
    flags = read_flags(flags)
    steps, betas = flags['diffusion_steps'], dict(beta_schedule='squaredcos_cap_v2')
    if flags['noise_schedule'] == 'linear':
        ends = dict(beta_start=0.1 / steps, beta_end=20 / steps)
        betas = dict(beta_schedule='linear', **ends)
    return dict(
        betas,
        num_train_timesteps=steps,
        prediction_type='sample' if flags['predict_xstart'] else 'epsilon',
        variance_type='learned_range' if flags['learn_sigma'] else 'fixed_large',
    )


def adm_name(name: str, unet: UNet2DModel) -> str:
    """guided-diffusion's name of the parameter ``name`` of ``unet``."""
    module, _, parameter = name.rpartition('.')
    if module in _NAMES:
        return f'{_NAMES[module]}.{parameter}'
    pattern = r'(down|mid|up)_blocks?\.(?:(\d+)\.)?([a-z]+)\.(\d+)\.(.+)'
    side, i, kind, j, layer = re.fullmatch(pattern, module).groups()
    slot, i, j = int(kind == 'attentions'), int(i or 0), int(j)
    if side == 'mid':
        block = f'middle_block.{2 * j + slot}'
    else:  # blocks are numbered through: per level its layers, then its resampler
        layers = unet.config.layers_per_block
        if kind == 'upsamplers':  # lies in the block of the level's last layer
            slot = 1 + ('Attn' in unet.config.up_block_types[i])
        j = i * (layers + 1) + (layers if kind.endswith('samplers') else j)
        block = f'input_blocks.{1 + j}' if side == 'down' else f'output_blocks.{j}'
        block = f'{block}.{slot}'
    layer = 'op' if (kind, layer) == ('downsamplers', 'conv') else layer
    return f'{block}.{_NAMES.get(layer, layer)}.{parameter}'


def adm_shapes(unet: UNet2DModel) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the checkpoint that fits ``unet``."""
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
    found = {name: tuple(value.shape) for name, value in state.items()}
    needed = adm_shapes(unet)
    return [
        f'{name!r} (found {found.get(name)}, needed {needed.get(name)})'
        for name in {**needed, **found}
        if found.get(name) != needed.get(name)
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
            'another preset or config (without one, those that fit are found).'
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


def build(flags: dict) -> UNet2DModel:
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
    folder, choices = Path(out), ', '.join(PRESETS)
    if folder.exists():
        raise FileExistsError(f'{out} exists already; remove it or give another name.')
    if preset is not None and (config is not None or preset not in PRESETS):
        raise ValueError(f'preset={preset!r}: give one of {choices}, or a config.')
    state, flags = load_state_dict(source), PRESETS.get(preset)
    if config is not None:
        try:
            flags = dict(json.loads(Path(config).read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f'{config} is no JSON file of flags ({error}).') from None
    elif preset is None:
        fits = [k for k in PRESETS if not _mismatches(state, build(PRESETS[k]))]
        if len(fits) != 1:
            raise ValueError(
                f'{source} fits {" and ".join(fits) or "no preset"} by names and '
                f'shapes; give preset ({choices}) or a config of flags.'
            )
        preset, flags = fits[0], PRESETS[fits[0]]
    unet, order = build(flags), read_flags(flags)['use_new_attention_order']
    unet.load_state_dict(adm_state_dict(state, unet, order), assign=True)
    partial = folder.with_name(f'{folder.name}.partial')
    shutil.rmtree(partial, ignore_errors=True)
    try:
        scheduler = build_scheduler(adm_schedule(flags))
        DiffusionModel(unet, scheduler).save_pretrained(partial)
        for file in partial.iterdir():  # safetensors files are private to their writer
            file.chmod(0o644)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return preset or config
