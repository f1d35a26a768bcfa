"""Find the folder of a prior: in the package, the repository, on the disk, a hub."""

import os
from pathlib import Path

from .json_files import one_line

ASSETS = Path(__file__).resolve().parents[1] / 'assets'
# Larger priors lie in the repository, not in the package.
SHELF = ASSETS.parents[1] / 'weights'
PACKAGE_PREFIX = 'mmdiff::'
WEIGHTS = 'diffusion_pytorch_model'


def locate(
    source: str | Path,
    cache_dir: str | Path | None = None,
    subfolder: str | None = None,
    variant: str | None = None,
) -> Path:
    """Return the local folder of a prior; hub ids are downloaded first.

    Args:
        source: ``mmdiff::NAME`` (shipped in the package, or in ``weights/`` of the
            repository), a diffusers folder, or a hub id ``owner/name``.
        cache_dir: Where hub files are kept; ``None`` is huggingface_hub's default.
        subfolder: Folder in it that holds the prior.
        variant: Which of several copies of the weights to fetch.

    Raises:
        FileNotFoundError: If there is no such folder, or the hub cannot give it.
    """
    folder = _locate_root(source, cache_dir, subfolder, variant)
    if subfolder is None:
        return folder
    if not (folder / subfolder).is_dir():
        raise FileNotFoundError(
            f'{folder} has no subfolder {subfolder!r}; leave subfolder out, or give '
            'one that is there.'
        )
    return folder / subfolder


def _locate_root(
    source: str | Path,
    cache_dir: str | Path | None,
    subfolder: str | None,
    variant: str | None,
) -> Path:
    try:
        source = os.fspath(source)
    except TypeError:
        raise TypeError(
            f'A prior is given by a name, a path or a config dict, not by {source!r}.'
        ) from None
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
    cache = None if cache_dir is None else str(Path(cache_dir).expanduser())
    return _download(source, cache, subfolder, variant)


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
    places = [place for place in (SHELF, ASSETS) if place.is_dir()]
    configs = [file for place in places for file in sorted(place.glob('*/config.json'))]
    return {file.parent.name: file.parent for file in configs}


def _download(
    source: str, cache_dir: str | None, subfolder: str | None, variant: str | None
) -> Path:
    mark = f'.{variant}' if variant else ''
    places = ('', 'unet/', 'vae/') + ((f'{subfolder}/',) if subfolder else ())
    try:
        # One weight file only: many repositories hold several copies of it.
        for suffix, text in (('safetensors', 'model'), ('bin', 'pytorch_model')):
            names = [f'{WEIGHTS}{mark}.{suffix}', f'{WEIGHTS}{mark}-*.{suffix}']
            patterns = [place + name for place in places for name in names]
            patterns += [f'text_encoder{i}/{text}{mark}.{suffix}' for i in ('', '_2')]
            folder = _fetch(source, cache_dir, patterns)
            if any(folder.rglob(f'{WEIGHTS}*.{suffix}')):
                return folder
    except Exception as error:  # the hub client raises many unrelated types
        folder = _cached(source, cache_dir)
        if folder is not None:
            return folder
        raise FileNotFoundError(
            f'{source!r} is not a local folder and could not be fetched from the hub '
            f'({type(error).__name__}: {one_line(error)[:120]}); check the name and '
            'the network, or download it elsewhere and give the folder.'
        ) from error
    kind = f' of variant={variant!r}' if variant else ''
    raise FileNotFoundError(
        f'The hub repository {source!r} holds no {WEIGHTS} file{kind}.'
    )


def _fetch(source: str, cache_dir: str | None, weights: list[str]) -> Path:
    """Fetch settings and the weights of these names from a hub repository."""
    from huggingface_hub import snapshot_download

    # Settings at every level, and the tokenizers' one file that is not JSON.
    merges = ['tokenizer/merges.txt', 'tokenizer_2/merges.txt']
    patterns = ['*.json', *merges, *weights]
    return Path(snapshot_download(source, cache_dir=cache_dir, allow_patterns=patterns))


def _cached(source: str, cache_dir: str | None) -> Path | None:
    """Return what an earlier download left, complete or not; ``None`` if nothing.

    Some versions of huggingface_hub refuse a snapshot offline that holds fewer files
    than the repository, as all do that were fetched by patterns.
    """
    from huggingface_hub import try_to_load_from_cache

    for name in ('model_index.json', 'config.json'):
        try:
            file = try_to_load_from_cache(source, name, cache_dir=cache_dir)
        except ValueError:  # no valid id
            return None
        if isinstance(file, str):
            return Path(file).parent
    return None
