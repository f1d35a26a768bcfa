"""Find and read a diffusion prior: a folder, a hub id, the package, or a config."""

from pathlib import Path

import safetensors
from diffusers import DDPMScheduler, UNet2DModel

from .schedule import build_scheduler

ASSETS = Path(__file__).resolve().parents[1] / 'assets'
PACKAGE_PREFIX = 'mmdiff::'


def locate(source: str, cache_dir: str | None = None) -> Path:
    """Return the local folder of a prior; hub ids are downloaded first.

    Args:
        source: ``mmdiff::NAME`` (shipped in the package), a diffusers folder, or a
            hub id ``owner/name``.
        cache_dir: Where hub files are kept; ``None`` is huggingface_hub's default.

    Raises:
        FileNotFoundError: If there is no such folder, or the hub cannot give it.
    """
    if source.startswith(PACKAGE_PREFIX):
        folder = ASSETS / source[len(PACKAGE_PREFIX) :]
        if not folder.is_dir():
            names = sorted(p.name for p in ASSETS.iterdir() if p.is_dir())
            raise FileNotFoundError(
                f'The package has no prior {source!r}; it ships: '
                f'{", ".join(PACKAGE_PREFIX + name for name in names)}.'
            )
        return folder
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if source.count('/') != 1 or source.startswith(('.', '~', '/')) or folder.exists():
        raise FileNotFoundError(
            f'There is no folder {source!r}; give a diffusers folder (config.json and '
            'diffusion_pytorch_model.safetensors) or a hub id "owner/name".'
        )
    return _download(source, cache_dir)


def _download(source: str, cache_dir: str | None) -> Path:
    from huggingface_hub import snapshot_download

    patterns = ['*.json', 'unet/*.json', 'scheduler/*.json']
    weights = 'diffusion_pytorch_model'
    try:
        # One weight file only: many repositories hold several copies of it.
        for suffix in ('safetensors', 'bin'):
            folder = Path(
                snapshot_download(
                    source,
                    cache_dir=cache_dir,
                    allow_patterns=[
                        *patterns,
                        f'{weights}.{suffix}',
                        f'unet/{weights}.{suffix}',
                    ],
                )
            )
            if any(folder.rglob(f'{weights}.{suffix}')):
                return folder
    except Exception as error:  # the hub client raises many unrelated types
        raise FileNotFoundError(
            f'{source!r} is not a local folder and could not be fetched from the hub '
            f'({type(error).__name__}); check the name and the network, or download '
            'it elsewhere and give the folder.'
        ) from error
    raise FileNotFoundError(f'The hub repository {source!r} holds no {weights} file.')


def load_unet(folder: Path, random_weights: bool = False) -> UNet2DModel:
    """Read a ``UNet2DModel``; every weight must come from the file.

    Args:
        folder: A diffusers folder, of the network alone or of a pipeline.
        random_weights: Read the config only.

    Raises:
        FileNotFoundError: If the folder holds no config or no weights.
        ValueError: If the weights are cut short, or do not fit the config.
    """
    if not (folder / 'config.json').is_file() and (folder / 'unet').is_dir():
        folder = folder / 'unet'  # a pipeline folder
    if not (folder / 'config.json').is_file():
        raise FileNotFoundError(
            f'{folder} has no config.json; give the folder that save_pretrained() of '
            'a UNet2DModel or of a DDPM pipeline wrote.'
        )
    config = UNet2DModel.load_config(folder)
    name = config.get('_class_name', 'UNet2DModel')
    if name != 'UNet2DModel':
        raise ValueError(f'{folder} holds a {name}; a UNet2DModel is needed.')
    if random_weights:
        return UNet2DModel.from_config(config)
    weights = folder / 'diffusion_pytorch_model.safetensors'
    if weights.is_file():
        try:
            with safetensors.safe_open(weights, 'pt') as file:
                file.keys()
        except safetensors.SafetensorError as error:
            raise ValueError(
                f'{weights} cannot be read ({error}); it is cut short or damaged: '
                'fetch or export it again.'
            ) from None
    elif not weights.with_suffix('.bin').is_file():
        raise FileNotFoundError(
            f'{folder} has a config.json but no weights ({weights.name}); copy the '
            'weights next to it, or give a config dict for random weights.'
        )
    try:
        unet, info = UNet2DModel.from_pretrained(
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
    return unet


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


def read_prior(
    source: str | dict,
    schedule: dict | None = None,
    cache_dir: str | None = None,
    random_weights: bool = False,
) -> tuple[UNet2DModel, DDPMScheduler]:
    """Return the network and the noise schedule of ``source``.

    Args:
        source: See :func:`locate`, or ``dict(type='UNet2DModel', ...)`` for random
            weights.
        schedule: See :func:`build_scheduler`; overrides what lies in the folder.
        cache_dir: See :func:`locate`.
        random_weights: Take the network of ``source`` but not its weights.
    """
    if isinstance(source, dict):
        args = dict(source)
        kind = args.pop('type', 'UNet2DModel')
        if kind != 'UNet2DModel':
            raise ValueError(
                f"A prior's config must be of type UNet2DModel, not {kind}."
            )
        return UNet2DModel(**args), build_scheduler(schedule)
    folder = locate(source, cache_dir)
    unet = load_unet(folder, random_weights)
    return unet, build_scheduler(schedule) if schedule else load_scheduler(folder)
