"""Find the folder of a prior: in the package, the repository, on the disk, a hub."""

import os
from pathlib import Path

ASSETS = Path(__file__).resolve().parents[1] / 'assets'
# Larger priors lie in the repository, not in the package.
WEIGHTS = ASSETS.parents[1] / 'weights'
PACKAGE_PREFIX = 'mmdiff::'


def locate(source: str | Path, cache_dir: str | None = None) -> Path:
    """Return the local folder of a prior; hub ids are downloaded first.

    Args:
        source: ``mmdiff::NAME`` (shipped in the package, or in ``weights/`` of the
            repository), a diffusers folder, or a hub id ``owner/name``.
        cache_dir: Where hub files are kept; ``None`` is huggingface_hub's default.

    Raises:
        FileNotFoundError: If there is no such folder, or the hub cannot give it.
    """
    source = os.fspath(source)
    if source.startswith(PACKAGE_PREFIX):
        return _locate_shipped(source)
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if source.count('/') != 1 or source.startswith(('.', '~', '/')) or folder.exists():
        raise FileNotFoundError(
            f'There is no folder {source!r}; give a diffusers folder (config.json and '
            'diffusion_pytorch_model.safetensors) or a hub id "owner/name".'
        )
    return _download(source, cache_dir)


def _locate_shipped(source: str) -> Path:
    folders = shipped_priors()
    name = source[len(PACKAGE_PREFIX) :]
    if name not in folders:
        raise FileNotFoundError(
            f'There is no prior {source!r}; there are: '
            f'{", ".join(PACKAGE_PREFIX + name for name in folders)} (those of '
            'weights/ need a checkout of the repository).'
        )
    return folders[name]


def shipped_priors() -> dict[str, Path]:
    """List the folders of the priors in package and repository, by name."""
    places = [place for place in (WEIGHTS, ASSETS) if place.is_dir()]
    configs = [file for place in places for file in sorted(place.glob('*/config.json'))]
    return {file.parent.name: file.parent for file in configs}


def _download(source: str, cache_dir: str | None) -> Path:
    try:
        # One weight file only: many repositories hold several copies of it.
        for suffix, text_weights in (
            ('safetensors', 'model.safetensors'),
            ('bin', 'pytorch_model.bin'),
        ):
            weights = f'diffusion_pytorch_model.{suffix}'
            folder = _fetch(source, cache_dir, weights, text_weights)
            if any(folder.rglob(weights)):
                return folder
    except Exception as error:  # the hub client raises many unrelated types
        raise FileNotFoundError(
            f'{source!r} is not a local folder and could not be fetched from the hub '
            f'({type(error).__name__}); check the name and the network, or download '
            'it elsewhere and give the folder.'
        ) from error
    raise FileNotFoundError(
        f'The hub repository {source!r} holds no diffusion_pytorch_model file.'
    )


def _fetch(source: str, cache_dir: str | None, weights: str, text_weights: str) -> Path:
    """Fetch settings and the weights of these names from a hub repository."""
    from huggingface_hub import snapshot_download

    # Settings at every level, and the tokenizer's one file that is not JSON.
    patterns = ['*.json', 'tokenizer/merges.txt', weights]
    patterns += [f'unet/{weights}', f'vae/{weights}', f'text_encoder/{text_weights}']
    return Path(snapshot_download(source, cache_dir=cache_dir, allow_patterns=patterns))
