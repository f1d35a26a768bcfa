"""Read a diffusion prior from its folder, or build it from a config."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import nn

from .hub import locate
from .schedule import build_scheduler


def class_of(folder: Path) -> str:
    """Name of the class that wrote the ``config.json`` in ``folder``.

    Raises:
        FileNotFoundError: If there is none.
    """
    if not (folder / 'config.json').is_file():
        raise FileNotFoundError(
            f'{folder} has no config.json; give the folder that save_pretrained() of '
            'a UNet2DModel or of a pipeline wrote, or one that '
            'tools/convert_checkpoint.py wrote.'
        )
    try:
        config = json.loads((folder / 'config.json').read_text())
    except ValueError as error:
        raise ValueError(f'{folder / "config.json"} is not JSON ({error}).') from None
    return config.get('_class_name', 'UNet2DModel')


def load_module(cls: type, folder: Path, random_weights: bool = False) -> nn.Module:
    """Read a diffusers module; every weight must come from the file.

    Args:
        cls: Class of the module, with diffusers' ``from_pretrained``.
        folder: Holds its ``config.json`` and weights.
        random_weights: Read the config only.

    Raises:
        FileNotFoundError: If the folder holds no config or no weights.
        ValueError: If the weights are cut short, or do not fit the config.
    """
    name = class_of(folder)
    if name != cls.__name__:
        raise ValueError(f'{folder} holds a {name}; a {cls.__name__} is needed.')
    if random_weights:
        return cls.from_config(cls.load_config(folder))
    weights = folder / 'diffusion_pytorch_model.safetensors'
    if weights.is_file():
        check_weights(weights)
    elif not weights.with_suffix('.bin').is_file():
        raise FileNotFoundError(
            f'{folder} has a config.json but no weights ({weights.name}); copy the '
            'weights next to it, or give a config dict for random weights.'
        )
    try:
        module, info = cls.from_pretrained(
            folder, output_loading_info=True, low_cpu_mem_usage=False
        )
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(
            f'The weights in {folder} do not fit its config.json: '
            f'{" ".join(str(error).split())[:300]}'
        ) from None
    if info['missing_keys'] or info['unexpected_keys']:
        odd = [*info['missing_keys'], *info['unexpected_keys']]
        raise ValueError(
            f'The weights in {folder} do not fit its config.json: {len(odd)} names '
            f'are missing or unknown, among them {odd[0]!r}.'
        )
    return module


def check_weights(weights: Path) -> None:
    """Complain about a damaged weight file.

    A ``SHA256`` file beside the weights (``sha256sum``'s format) is compared.

    Raises:
        ValueError: If the file is cut short, or is not the one that was written.
    """
    try:
        with safetensors.safe_open(weights, 'pt') as file:
            file.keys()
    except safetensors.SafetensorError as error:
        raise ValueError(
            f'{weights} cannot be read ({error}); it is cut short or damaged: '
            'fetch or export it again.'
        ) from None
    sums = weights.with_name('SHA256')
    if sums.is_file():
        found = hashlib.sha256(weights.read_bytes()).hexdigest()
        if found not in sums.read_text().split():
            raise ValueError(
                f'{weights} does not match the SHA256 file beside it; it was changed '
                'or damaged: fetch or export it again.'
            )


# Settings that some published networks have and UNet2DModel lacks; kept in config.json.
EXTRAS = ('num_attention_heads', 'time_proj_channels', 'null_class')


def build_unet(config: dict) -> UNet2DModel:
    """A ``UNet2DModel`` with random weights.

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
        for module in unet.modules():
            if isinstance(module, Attention):
                width = module.inner_dim // extras['num_attention_heads']
                module.heads = extras['num_attention_heads']
                module.scale = width**-0.5
    if extras.get('time_proj_channels'):
        channels = extras['time_proj_channels']
        unet.time_proj = Timesteps(
            channels, unet.config.flip_sin_to_cos, unet.config.freq_shift
        )
        unet.time_embedding = TimestepEmbedding(
            channels, unet.time_embedding.linear_2.out_features
        )
    return unet


def load_unet(folder: Path, random_weights: bool = False) -> UNet2DModel:
    """Read a ``UNet2DModel``, with the settings that :func:`build_unet` adds.

    See :func:`load_module` for arguments and errors.
    """
    if class_of(folder) == 'UNet2DModel':
        config = UNet2DModel.load_config(folder)
        if any(config.get(key) is not None for key in EXTRAS):
            unet = build_unet(config)
            if not random_weights:
                load_weights(unet, folder)
            return unet
    return load_module(UNet2DModel, folder, random_weights)


def build_edm(config: dict, schedule: dict | None = None) -> nn.Module:
    """An ``EDMPrecond`` with random weights.

    Raises:
        ValueError: For a noise schedule, or arguments that no such network has.
    """
    from .networks import EDMPrecond

    if schedule is not None:
        raise ValueError('An EDM prior counts sigmas: leave the noise schedule out.')
    try:
        return EDMPrecond(**{k: v for k, v in config.items() if k != '_class_name'})
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f'These arguments make no EDMPrecond: {" ".join(str(error).split())[:300]}'
        ) from None


def load_weights(module: nn.Module, folder: Path) -> None:
    """Load the safetensors in ``folder``; names and shapes must be the module's.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If they are cut short, or do not fit.
    """
    weights = folder / 'diffusion_pytorch_model.safetensors'
    if not weights.is_file():
        raise FileNotFoundError(
            f'{folder} has a config.json but no weights ({weights.name}); copy the '
            'weights next to it, or give a config dict for random weights.'
        )
    check_weights(weights)
    try:
        module.load_state_dict(safetensors.torch.load_file(weights))
    except RuntimeError as error:
        raise ValueError(
            f'The weights in {folder} do not fit its config.json: '
            f'{" ".join(str(error).split())[:300]}'
        ) from None


def load_scheduler(folder: Path) -> DDPMScheduler:
    """Read the noise schedule that lies beside a prior.

    Raises:
        FileNotFoundError: If there is none: guessing one would be wrong silently.
    """
    for place in (folder, folder / 'scheduler', folder.parent / 'scheduler'):
        if (place / 'scheduler_config.json').is_file():
            config = DDPMScheduler.load_config(place)
            return DDPMScheduler.from_config(config)
    raise FileNotFoundError(
        f'{folder} has no scheduler_config.json; give the noise schedule that the '
        "prior was trained with, as schedule=dict(beta_schedule='linear', "
        "prediction_type='epsilon')."
    )


@dataclass
class PriorParts:
    """What a prior is made of.

    Args:
        kind: ``'pixel'``, ``'latent'`` or ``'edm'``.
        unet: The network.
        scheduler: Noise schedule; ``None`` for EDM, which needs none.
        vae: Autoencoder of a latent prior.
        text: What a latent prior needs to embed a prompt.
    """

    kind: str
    unet: nn.Module
    scheduler: DDPMScheduler | None = None
    vae: nn.Module | None = None
    text: Any = None


def read_prior(
    source: str | dict,
    schedule: dict | None = None,
    cache_dir: str | None = None,
    random_weights: bool = False,
) -> PriorParts:
    """Return network, noise schedule and whatever else belongs to ``source``.

    Args:
        source: See :func:`locate`, or a config for random weights.
        schedule: See :func:`build_scheduler`; overrides what lies in the folder.
        cache_dir: See :func:`locate`.
        random_weights: Take the network of ``source`` but not its weights.
    """
    if isinstance(source, dict):
        args = dict(source)
        kind = args.pop('type', 'UNet2DModel')
        if kind == 'UNet2DModel':
            return PriorParts('pixel', build_unet(args), build_scheduler(schedule))
        if kind == 'LatentDiffusion':
            from .latent_loading import build_latent

            return build_latent(args, schedule)
        if kind == 'EDMPrecond':
            return PriorParts('edm', build_edm(args, schedule))
        raise ValueError(
            f"A prior's config must be of type UNet2DModel, EDMPrecond or "
            f'LatentDiffusion, not {kind}.'
        )
    folder = locate(source, cache_dir)
    if not (folder / 'config.json').is_file() and (folder / 'unet').is_dir():
        if (folder / 'vae').is_dir():
            from .latent_loading import read_latent

            return read_latent(folder, schedule, cache_dir, random_weights)
        folder = folder / 'unet'  # a pipeline folder
    if class_of(folder) == 'EDMPrecond':
        unet = build_edm(json.loads((folder / 'config.json').read_text()), schedule)
        if not random_weights:
            load_weights(unet, folder)
        return PriorParts('edm', unet)
    unet = load_unet(folder, random_weights)
    scheduler = build_scheduler(schedule) if schedule else load_scheduler(folder)
    return PriorParts('pixel', unet, scheduler)
