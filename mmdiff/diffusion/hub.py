"""Where a prior lies: the package, the repository, a folder, the hub."""

from pathlib import Path

ASSETS = Path(__file__).resolve().parents[1] / 'assets'
# Larger priors lie in the repository, not in the package.
WEIGHTS = ASSETS.parents[1] / 'weights'
PACKAGE_PREFIX = 'mmdiff::'


def locate(source: str, cache_dir: str | None = None) -> Path:
    """Return the local folder of a prior; hub ids are downloaded first.

    Args:
        source: ``mmdiff::NAME`` (shipped in the package, or in ``weights/`` of the
            repository), a diffusers folder, or a hub id ``owner/name``.
        cache_dir: Where hub files are kept; ``None`` is huggingface_hub's default.

    Raises:
        FileNotFoundError: If there is no such folder, or the hub cannot give it.
    """
    if source.startswith(PACKAGE_PREFIX):
        found = {
            folder.name: folder
            for place in (WEIGHTS, ASSETS)
            if place.is_dir()
            for folder in sorted(place.iterdir())
            if (folder / 'config.json').is_file()
        }
        name = source[len(PACKAGE_PREFIX) :]
        if name not in found:
            raise FileNotFoundError(
                f'There is no prior {source!r}; there are: '
                f'{", ".join(PACKAGE_PREFIX + name for name in found)} (those of '
                'weights/ need a checkout of the repository).'
            )
        return found[name]
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

    # Configs at every level, and the tokenizer's one file that is not JSON.
    patterns = ['*.json', 'tokenizer/merges.txt']
    weights = 'diffusion_pytorch_model'
    try:
        # One weight file only: many repositories hold several copies of it.
        for suffix, text in (('safetensors', 'model'), ('bin', 'pytorch_model')):
            folder = Path(
                snapshot_download(
                    source,
                    cache_dir=cache_dir,
                    allow_patterns=[
                        *patterns,
                        f'{weights}.{suffix}',
                        f'unet/{weights}.{suffix}',
                        f'vae/{weights}.{suffix}',
                        f'text_encoder/{text}.{suffix}',
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
