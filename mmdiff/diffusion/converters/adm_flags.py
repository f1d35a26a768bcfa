"""Flags of guided-diffusion, and the arguments of its ``UNetModel`` as flags."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

_DATA = json.loads(Path(__file__).with_name('adm_presets.json').read_text())
DEFAULTS: dict[str, object] = _DATA['defaults']
# Channels of each level, by the size of the image.
CHANNEL_MULTS: dict[int, str] = {
    int(size): mults for size, mults in _DATA['channel_mults'].items()
}
PRESETS: dict[str, dict] = _DATA['presets']
# Arguments of UNetModel with one right value.
FIXED: dict[str, tuple] = {
    'in_channels': (3,),
    'dims': (2,),
    'use_spatial_transformer': (False,),
}
# Arguments whose names the flags share, and whose values they take as they are.
SHARED = (
    'image_size',
    'num_res_blocks',
    'dropout',
    'conv_resample',
    'num_heads',
    'num_head_channels',
    'num_heads_upsample',
    'use_scale_shift_norm',
    'resblock_updown',
    'use_new_attention_order',
    'use_checkpoint',
    'use_fp16',
)
# Flags of the diffusion, which may stand beside them.
DIFFUSION = (
    'noise_schedule',
    'diffusion_steps',
    'predict_xstart',
    'rescale_timesteps',
    'timestep_respacing',
    'use_kl',
    'rescale_learned_sigmas',
)


def from_constructor(args: dict[str, Any]) -> dict[str, Any]:
    """Turn arguments of guided-diffusion's ``UNetModel`` into its flags.

    ``attention_resolutions`` are strides there, and resolutions among the flags.
    Arguments left out have the defaults of the constructor.

    Args:
        args: ``image_size``, ``model_channels``, ``attention_resolutions``, ...

    Raises:
        ValueError: If one is unknown, missing, or not supported.
    """
    own = ('model_channels', 'out_channels', 'channel_mult', 'num_classes')
    known = {*own, *FIXED, *SHARED, *DIFFUSION, 'attention_resolutions'}
    for name, value in args.items():
        if name not in known or value not in FIXED.get(name, (value,)):
            raise ValueError(
                f'{name}={value!r} is no supported argument of UNetModel; it has '
                f'{", ".join(sorted(known))}.'
            )
    try:
        size, width = args['image_size'], args['model_channels']
        strides, out_channels = args['attention_resolutions'], args['out_channels']
        resolutions = [str(size // stride) for stride in strides]
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise ValueError(
            'UNetModel needs image_size, model_channels, out_channels and '
            f'attention_resolutions (a list of strides); look at {error}.'
        ) from None
    flags = {key: args[key] for key in (*SHARED, *DIFFUSION) if key in args}
    flags.setdefault('num_heads', 1)
    flags.setdefault('use_scale_shift_norm', False)
    mults = args.get('channel_mult', (1, 2, 4, 8))
    flags.update(
        num_channels=width,
        attention_resolutions=','.join(resolutions),
        channel_mult=mults if isinstance(mults, str) else ','.join(map(str, mults)),
        learn_sigma=out_channels == 6,
        class_cond=args.get('num_classes') is not None,
    )
    if args.get('num_classes') is not None:
        flags['num_classes'] = args['num_classes']
    return flags


def count_classes(flags: dict, state: dict[str, Tensor]) -> dict:
    """Add the number of classes that the weights have, where the flags do not say."""
    embedding = state.get('label_emb.weight')
    if embedding is None or 'num_classes' in flags or not flags.get('class_cond'):
        return flags
    return {**flags, 'num_classes': len(embedding)}


def read_flags(given: dict) -> dict:
    """Complete flags of guided-diffusion with its defaults for those left out.

    Raises:
        ValueError: If a flag or its type is unknown, or diffusers cannot express it.
    """
    for name, value in given.items():
        kind = type(DEFAULTS.get(name))
        if not isinstance(value, (float, int) if kind is float else kind):
            known = ', '.join(f'{k}={v!r}' for k, v in DEFAULTS.items())
            raise ValueError(
                f'{name}={value!r} is no flag of guided-diffusion; it has {known}.'
            )
    flags = {**DEFAULTS, **given}
    known_schedule = flags['noise_schedule'] in ('linear', 'cosine')
    # Rescaled times are those of 1000 steps.
    whole_times = not flags['rescale_timesteps'] or flags['diffusion_steps'] == 1000
    if 'rescale_timesteps' not in given and flags['diffusion_steps'] != 1000:
        raise ValueError(
            f'diffusion_steps={flags["diffusion_steps"]} needs rescale_timesteps: it '
            'is False by default in guided-diffusion and True in improved-diffusion '
            '(which is not supported, but for 1000 steps); say which it was.'
        )
    convolves = flags['conv_resample'] or flags['resblock_updown']
    same_heads = (
        flags['num_heads_upsample'] in (-1, flags['num_heads'])
        or flags['num_head_channels'] >= 0
    )
    if not (known_schedule and whole_times and convolves and same_heads):
        raise ValueError(
            'These flags are not supported: noise_schedule must be linear or cosine, '
            'rescale_timesteps False (but for 1000 diffusion_steps), conv_resample or '
            'resblock_updown True, num_heads_upsample as num_heads (or -1).'
        )
    return flags


def read_flag_file(path: str) -> dict:
    """Read a JSON file of flags, or of arguments of ``UNetModel``.

    Raises:
        ValueError: If it is not one.
    """
    try:
        flags = dict(json.loads(Path(path).expanduser().read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f'{path} is no JSON file of flags ({error}).') from None
    return from_constructor(flags) if 'model_channels' in flags else flags
