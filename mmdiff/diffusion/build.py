"""Build a prior of any kind: the only module that knows them all."""

import json
from dataclasses import dataclass
from pathlib import Path

from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import nn

from .base import DiffusionModel
from .ddpm import DDPMDiffusionModel
from .edm import EDMDiffusionModel
from .hub import locate
from .latent import LatentDiffusionModel, check_conditions
from .prompts import PromptEmbedder
from .schedule import build_scheduler
from .unets import build_edm, build_unet, load_unet
from .weights import class_of, load_network, load_scheduler, load_weights


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
    text: PromptEmbedder | None = None


def build_prior(
    source: str | Path | dict,
    schedule: dict | None = None,
    patch_size: int | None = None,
    cache_dir: str | None = None,
    random_weights: bool = False,
    **latent_args,
) -> DiffusionModel:
    """Read or build the parts of a prior and put them together.

    Arguments and errors are those of :meth:`DiffusionModel.from_pretrained`.
    """
    if isinstance(source, dict):
        parts = parts_from_config(source, schedule)
    else:
        parts = parts_from_folder(
            locate(source, cache_dir), schedule, cache_dir, random_weights
        )
    if patch_size not in (None, 1) and parts.kind != 'pixel':
        raise ValueError(
            f'patch_size={patch_size} belongs to a pixel U-Net; leave it out.'
        )
    if parts.kind == 'latent':
        return LatentDiffusionModel(
            parts.unet, parts.scheduler, parts.vae, parts.text, **latent_args
        )
    if latent_args:
        raise ValueError(
            f'{", ".join(latent_args)} belongs to a latent prior (Stable '
            'Diffusion); this one has no prompt and no VAE: leave it out.'
        )
    if parts.kind == 'edm':
        return EDMDiffusionModel(parts.unet)
    return DDPMDiffusionModel(parts.unet, parts.scheduler, patch_size)


def parts_from_config(source: dict, schedule: dict | None = None) -> PriorParts:
    """Build the parts of a prior with random weights.

    Args:
        source: ``type`` (``UNet2DModel`` if left out) and the arguments of that type.
        schedule: See :func:`build_scheduler`.

    Raises:
        ValueError: If the type is unknown, or its arguments are wrong.
    """
    args = dict(source)
    kind = args.pop('type', 'UNet2DModel')
    if kind == 'UNet2DModel':
        return PriorParts('pixel', build_unet(args), build_scheduler(schedule))
    if kind == 'EDMPrecond':
        _refuse_schedule(schedule)
        return PriorParts('edm', build_edm(args))
    if kind != 'LatentDiffusion':
        raise ValueError(
            f"A prior's config must be of type UNet2DModel, EDMPrecond or "
            f'LatentDiffusion, not {kind}.'
        )
    if set(args) != {'unet', 'vae'}:
        raise ValueError(
            'A LatentDiffusion config has unet=dict(...) and vae=dict(...), not '
            f'{", ".join(map(str, args)) or "nothing"}.'
        )
    unet = UNet2DConditionModel(**args['unet'])
    vae = AutoencoderKL(**args['vae'])
    return PriorParts('latent', unet, build_scheduler(schedule), vae)


def parts_from_folder(
    folder: Path,
    schedule: dict | None = None,
    cache_dir: str | None = None,
    random_weights: bool = False,
) -> PriorParts:
    """Read the parts of a prior.

    Args:
        folder: Of a network, or of a pipeline.
        schedule: See :func:`build_scheduler`; overrides what lies in the folder.
        cache_dir: Where prompt embeddings are kept.
        random_weights: Take the networks of ``folder`` but not their weights.
    """
    if not (folder / 'config.json').is_file() and (folder / 'unet').is_dir():
        if (folder / 'vae').is_dir():
            return _latent_parts(folder, schedule, cache_dir, random_weights)
        folder = folder / 'unet'  # a pipeline of a pixel prior
    if class_of(folder) == 'EDMPrecond':
        _refuse_schedule(schedule)
        unet = build_edm(json.loads((folder / 'config.json').read_text()))
        if not random_weights:
            load_weights(unet, folder)
        return PriorParts('edm', unet)
    unet = load_unet(folder, random_weights)
    return PriorParts('pixel', unet, _scheduler(folder, schedule))


def _latent_parts(
    folder: Path, schedule: dict | None, cache_dir: str | None, random_weights: bool
) -> PriorParts:
    # Before gigabytes are read.
    check_conditions(UNet2DConditionModel.load_config(folder / 'unet'))
    return PriorParts(
        'latent',
        load_network(UNet2DConditionModel, folder / 'unet', random_weights),
        _scheduler(folder, schedule),
        load_network(AutoencoderKL, folder / 'vae', random_weights),
        None if random_weights else PromptEmbedder(folder, cache_dir),
    )


def _scheduler(folder: Path, schedule: dict | None) -> DDPMScheduler:
    return build_scheduler(schedule) if schedule else load_scheduler(folder)


def _refuse_schedule(schedule: dict | None) -> None:
    if schedule is not None:
        raise ValueError('An EDM prior counts sigmas: leave the noise schedule out.')
