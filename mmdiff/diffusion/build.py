"""Build a prior of any kind: the only module that knows them all."""

from dataclasses import dataclass
from pathlib import Path

from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import nn

from .base import DiffusionModel
from .ddpm import DDPMDiffusionModel
from .edm import EDMDiffusionModel
from .hub import locate
from .json_files import read_json
from .latent import LatentDiffusionModel, check_conditions, check_latents
from .pipelines import read_layout
from .prompts import PromptEmbedder
from .schedule import build_scheduler
from .scheduler_files import read_scheduler
from .unets import (
    build_edm,
    build_network,
    build_unet,
    check_unet,
    infer_patch_size,
    load_unet,
)
from .weights import check_class, class_of, load_network, load_weights


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
    cache_dir: str | Path | None = None,
    random_weights: bool = False,
    subfolder: str | None = None,
    variant: str | None = None,
    **latent_args: str | None,
) -> DiffusionModel:
    """Read or build the parts of a prior and put them together.

    Arguments and errors are those of :meth:`DiffusionModel.from_pretrained`.
    """
    if isinstance(source, dict):
        if subfolder is not None or variant is not None:
            raise ValueError(
                'subfolder and variant belong to a folder or hub id; a config dict has '
                'random weights: leave them out.'
            )
        parts = parts_from_config(source, schedule)
    else:
        folder = locate(source, cache_dir, subfolder, variant)
        parts = parts_from_folder(folder, schedule, cache_dir, random_weights, variant)
    if patch_size not in (None, 1) and parts.kind != 'pixel':
        raise ValueError(
            f'patch_size={patch_size} belongs to a pixel U-Net; leave it out.'
        )
    given = {key: value for key, value in latent_args.items() if value is not None}
    if parts.kind == 'latent':
        return LatentDiffusionModel(
            parts.unet, parts.scheduler, parts.vae, parts.text, **given
        )
    if given:
        raise ValueError(
            f'{", ".join(given)} belongs to a latent prior (Stable '
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
    unet = build_network(UNet2DConditionModel, args['unet'])
    vae = build_network(AutoencoderKL, args['vae'])
    return PriorParts('latent', unet, build_scheduler(schedule), vae)


def parts_from_folder(
    folder: Path,
    schedule: dict | None = None,
    cache_dir: str | Path | None = None,
    random_weights: bool = False,
    variant: str | None = None,
) -> PriorParts:
    """Read the parts of a prior; all settings are checked before any weights are read.

    Args:
        folder: Of a network, or of a pipeline.
        schedule: See :func:`read_scheduler`; overrides what lies in the folder.
        cache_dir: Where prompt embeddings are kept.
        random_weights: Take the networks of ``folder`` but not their weights.
        variant: Which of several copies of the weights to read (``'fp16'``).
    """
    layout = read_layout(folder)
    if layout.latent:
        return _latent_parts(
            layout.root or folder, schedule, cache_dir, random_weights, variant
        )
    if class_of(layout.unet) == 'EDMPrecond':
        _refuse_schedule(schedule)
        unet = build_edm(read_json(layout.unet / 'config.json'))
        if not random_weights:
            load_weights(unet, layout.unet, variant)
        return PriorParts('edm', unet)
    check_class(layout.unet, 'UNet2DModel')
    scheduler = read_scheduler(layout.unet, schedule)
    config = read_json(layout.unet / 'config.json')
    check_unet(config, scheduler)
    infer_patch_size(config)
    unet = load_unet(layout.unet, random_weights, variant)
    return PriorParts('pixel', unet, scheduler)


def _latent_parts(
    folder: Path,
    schedule: dict | None,
    cache_dir: str | Path | None,
    random_weights: bool,
    variant: str | None,
) -> PriorParts:
    # Before gigabytes are read.
    config = UNet2DConditionModel.load_config(folder / 'unet')
    check_conditions(config)
    check_latents(config, AutoencoderKL.load_config(folder / 'vae'))
    scheduler = read_scheduler(folder, schedule)
    check_unet(config, scheduler)
    text = None if random_weights else PromptEmbedder(folder, cache_dir, variant)
    return PriorParts(
        'latent',
        load_network(UNet2DConditionModel, folder / 'unet', random_weights, variant),
        scheduler,
        load_network(AutoencoderKL, folder / 'vae', random_weights, variant),
        text,
    )


def _refuse_schedule(schedule: dict | None) -> None:
    if schedule is not None:
        raise ValueError('An EDM prior counts sigmas: leave the noise schedule out.')
