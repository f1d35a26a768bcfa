"""Build a prior of any kind: the only module that knows them all."""

from dataclasses import dataclass, field
from pathlib import Path

from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import nn

from .base import DiffusionModel
from .ddpm import DDPMDiffusionModel
from .edm import EDMDiffusionModel
from .hub import locate
from .json_files import read_json
from .latent import LatentDiffusionModel, check_conditions, check_latents
from .multihead import MultiHeadDiffusionModel
from .pipelines import Layout, read_layout
from .prompts import PromptEmbedder
from .schedule import build_scheduler
from .scheduler_files import read_scheduler
from .sdxl import SDXLDiffusionModel, check_sizes
from .single_file import SingleFile, is_single_file
from .unets import (
    build_edm,
    build_network,
    build_unet,
    check_unet,
    infer_patch_size,
    load_unet,
)
from .wanted import Wanted
from .weights import (
    check_class,
    check_weight_file,
    class_of,
    find_weights,
    load_network,
    load_weights,
    replace_weights,
)


@dataclass(frozen=True)
class Reading:
    """How a prior is read; see :meth:`DiffusionModel.from_pretrained`."""

    schedule: dict | None = None
    cache_dir: str | Path | None = None
    random_weights: bool = False
    subfolder: str | None = None
    variant: str | None = None
    unet_weights: str | Path | None = None
    config: str | Path | None = None
    wanted: Wanted = field(default_factory=Wanted)

    @property
    def random_unet(self) -> bool:
        """Whether the U-Net is built without its own weights: others may follow."""
        return self.random_weights or self.unet_weights is not None


@dataclass
class PriorParts:
    """What a prior is made of.

    Args:
        kind: Class of the prior.
        unet: The network.
        scheduler: Noise schedule; ``None`` for EDM, which needs none.
        vae: Autoencoder of a latent prior.
        text: What a latent prior needs to embed a prompt.
    """

    kind: type[DiffusionModel]
    unet: nn.Module
    scheduler: DDPMScheduler | None = None
    vae: nn.Module | None = None
    text: PromptEmbedder | None = None


def build_prior(source: str | Path | dict, reading: Reading) -> DiffusionModel:
    """Read or build the parts of a prior and put them together.

    Args:
        source: See :meth:`DiffusionModel.from_pretrained`, as for errors.
        reading: How to read it, and what is wanted of it.
    """
    parts, wanted = _read_parts(source, reading), reading.wanted
    wanted.check(parts.kind)
    if issubclass(parts.kind, LatentDiffusionModel):
        networks = parts.unet, parts.scheduler, parts.vae
        return parts.kind(*networks, parts.text, **wanted.latent_args)
    if issubclass(parts.kind, DDPMDiffusionModel):
        return parts.kind(parts.unet, parts.scheduler, wanted.patch_size)
    return EDMDiffusionModel(parts.unet)


def _read_parts(source: str | Path | dict, reading: Reading) -> PriorParts:
    if reading.unet_weights is not None and reading.random_weights:
        raise ValueError(
            'unet_weights and random_weights=True contradict each other; leave one out.'
        )
    weights = None
    if reading.unet_weights is not None:
        weights = Path(reading.unet_weights).expanduser()
        check_weight_file(weights)  # before gigabytes of others are read
    if isinstance(source, dict):
        _refuse_files(reading)
        parts = parts_from_config(source, reading.schedule)
    elif is_single_file(source):
        parts = _single_file_parts(Path(source).expanduser(), reading)
    elif reading.config is not None:
        raise ValueError(
            'config belongs to a source that is one safetensors file; '
            f'{str(source)!r} has its own settings: leave config out.'
        )
    else:
        folder = locate(source, reading.cache_dir, reading.subfolder, reading.variant)
        parts = parts_from_folder(folder, reading)
    if weights is not None:
        replace_weights(parts.unet, weights)
    return parts


def _refuse_files(reading: Reading) -> None:
    if (reading.subfolder, reading.variant, reading.config) != (None, None, None):
        raise ValueError(
            'subfolder and variant belong to a folder or hub id, config to a single '
            'file; a config dict has random weights: leave them out.'
        )


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
        return PriorParts(
            _pixel_kind(args), build_unet(args), build_scheduler(schedule)
        )
    if kind == 'EDMPrecond':
        _refuse_schedule(schedule)
        return PriorParts(EDMDiffusionModel, build_edm(args))
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
    return PriorParts(_latent_kind(unet.config), unet, build_scheduler(schedule), vae)


def parts_from_folder(folder: Path, reading: Reading) -> PriorParts:
    """Read the parts of a prior; all settings are checked before any weights are read.

    Args:
        folder: Of a network, or of a pipeline.
        reading: How to read it.
    """
    layout = read_layout(folder)
    if layout.latent:
        return _latent_parts(layout.root or folder, reading)
    if class_of(layout.unet) == 'EDMPrecond':
        _refuse_schedule(reading.schedule)
        reading.wanted.check(EDMDiffusionModel)
        unet = build_edm(read_json(layout.unet / 'config.json'))
        if not reading.random_unet:
            load_weights(unet, layout.unet, reading.variant)
        return PriorParts(EDMDiffusionModel, unet)
    return _pixel_parts(layout, reading)


def _pixel_parts(layout: Layout, reading: Reading) -> PriorParts:
    check_class(layout.unet, 'UNet2DModel')
    config = read_json(layout.unet / 'config.json')
    kind = _pixel_kind(config)
    reading.wanted.check(kind)
    scheduler = read_scheduler(layout.unet, reading.schedule)
    check_unet(config, scheduler)
    infer_patch_size(config)
    unet = load_unet(layout.unet, reading.random_unet, reading.variant)
    return PriorParts(kind, unet, scheduler)


def _pixel_kind(config: dict) -> type[DDPMDiffusionModel]:
    """Class of a pixel prior by the settings of its U-Net."""
    heads = config.get('num_class_heads')
    return MultiHeadDiffusionModel if heads else DDPMDiffusionModel


def _latent_parts(
    folder: Path, reading: Reading, single: SingleFile | None = None
) -> PriorParts:
    """Read a pipeline; the networks' weights are in it, or in a single file."""
    scheduler = _check_latent(folder, reading.schedule)
    config = read_json(folder / 'unet' / 'config.json')
    kind, variant = _latent_kind(config), reading.variant
    reading.wanted.check(kind)
    no_unet = reading.random_unet or single is not None
    no_vae = reading.random_weights or single is not None
    for name, absent in (('unet', no_unet), ('vae', no_vae)):
        if not absent:
            find_weights(folder / name, variant)
    text = None
    if not reading.random_weights:
        text = PromptEmbedder(folder, reading.cache_dir, variant, kind.encoders)
        kind.check_embedding(config, text.embed(reading.wanted.prompt or ''))
    unet = load_network(UNet2DConditionModel, folder / 'unet', no_unet, variant)
    vae = load_network(AutoencoderKL, folder / 'vae', no_vae, variant)
    if single is not None and not reading.random_weights:
        single.load_vae(vae)
        if reading.unet_weights is None:
            single.load_unet(unet)
    return PriorParts(kind, unet, scheduler, vae, text)


def _latent_kind(config: dict) -> type[LatentDiffusionModel]:
    """Class of a latent prior by the settings of its U-Net."""
    sdxl = config.get('addition_embed_type') == SDXLDiffusionModel.addition
    return SDXLDiffusionModel if sdxl else LatentDiffusionModel


def _check_latent(folder: Path, schedule: dict | None) -> DDPMScheduler:
    """Check all settings of a pipeline, before gigabytes are read."""
    config = UNet2DConditionModel.load_config(folder / 'unet')
    check_conditions(config)
    if config.get('addition_embed_type') is not None:
        check_sizes(config)
    check_latents(config, AutoencoderKL.load_config(folder / 'vae'))
    scheduler = read_scheduler(folder, schedule)
    check_unet(config, scheduler)
    return scheduler


def _single_file_parts(file: Path, reading: Reading) -> PriorParts:
    if reading.subfolder is not None or reading.variant is not None:
        raise ValueError(
            'subfolder and variant belong to a folder or hub id; the source is one '
            'file: leave them out.'
        )
    single = SingleFile(file)
    if reading.config is None:
        raise ValueError(single.needs_config)
    folder = locate(reading.config, reading.cache_dir)
    layout = read_layout(folder)
    if not layout.latent:
        raise ValueError(
            f'config={str(reading.config)!r} holds a pixel prior; {file} needs the '
            'folder of a Stable Diffusion pipeline of its version.'
        )
    return _latent_parts(layout.root or folder, reading, single)


def _refuse_schedule(schedule: dict | None) -> None:
    if schedule is not None:
        raise ValueError('An EDM prior counts sigmas: leave the noise schedule out.')
