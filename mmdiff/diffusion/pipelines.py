"""What a folder is by its ``model_index.json``: refused before weights are read."""

from dataclasses import dataclass
from pathlib import Path

from .json_files import read_json
from .weights import class_of

PIXEL_PARTS = ('unet', 'scheduler')
LATENT_PARTS = (*PIXEL_PARTS, 'vae', 'text_encoder', 'tokenizer')
# SDXL has both; its refiner has the second alone.
SECOND_TEXT_PARTS = ('text_encoder_2', 'tokenizer_2')
# They change nothing of what the U-Net sees.
EXTRA_PARTS = ('safety_checker', 'feature_extractor')
SUPPORTED = (
    'supported are pixel U-Nets (UNet2DModel), and Stable Diffusion 1.x, 2.x and SDXL '
    '(UNet2DConditionModel with an AutoencoderKL called vae and CLIP text encoders)'
)


@dataclass(frozen=True)
class Layout:
    """Where the parts of a prior lie.

    Args:
        unet: Folder of the network.
        root: Folder of the pipeline; ``None`` if there is the network alone.
        latent: Whether the pipeline has an autoencoder.
    """

    unet: Path
    root: Path | None = None
    latent: bool = False


def read_layout(folder: Path) -> Layout:
    """Find out what a folder holds, and refuse what is not supported.

    Args:
        folder: Of a network, or of a pipeline. A folder in a pipeline counts as such:
            a U-Net of latents is no pixel prior.

    Raises:
        FileNotFoundError: If it holds no settings.
        ValueError: If the pipeline is not supported.
    """
    if (folder / 'config.json').is_file():
        kind = class_of(folder)
        if 'Transformer' in kind:
            raise ValueError(_transformer(str(folder), kind))
        folder = folder.resolve()  # a link, or '.', does not show what is above
        above = folder.parent / 'model_index.json'
        if not above.is_file() or folder.name not in read_parts(folder.parent):
            return Layout(folder)
        layout = _pipeline_layout(folder.parent)
        if layout.latent:
            raise ValueError(
                f'{folder} is a part of the latent pipeline {folder.parent}; give the '
                'pipeline, which has the autoencoder and the prompt too.'
            )
        return Layout(folder, folder.parent)
    if (folder / 'model_index.json').is_file() or (folder / 'unet').is_dir():
        return _pipeline_layout(folder)
    return Layout(folder)


def read_parts(root: Path) -> dict[str, str]:
    """Return the classes of a pipeline's parts, by their names.

    They are those of ``model_index.json``; where it names none, of all subfolders.
    """
    index = root / 'model_index.json'
    parts = {}
    for name, value in (read_json(index) if index.is_file() else {}).items():
        if isinstance(value, list) and value and value[-1] is not None:
            parts[name] = str(value[-1])
    if not parts:
        for config in sorted(root.glob('*/config.json')):
            settings = read_json(config)
            classes = settings.get('architectures') or ['?']
            parts[config.parent.name] = settings.get('_class_name', classes[0])
    return parts


def _pipeline_layout(root: Path) -> Layout:
    parts = read_parts(root)
    index = root / 'model_index.json'
    kind = read_json(index).get('_class_name') if index.is_file() else None
    title = f'{root} ({kind})' if kind else str(root)
    if 'unet' not in parts and not (root / 'unet').is_dir():
        raise ValueError(_no_unet(title, parts))
    latent = 'vae' in parts or (root / 'vae').is_dir()
    known = LATENT_PARTS if latent else PIXEL_PARTS
    if latent and 'text_encoder' in parts:
        known += ('image_encoder', *SECOND_TEXT_PARTS)
    for name in parts:
        if name not in (*known, *EXTRA_PARTS):
            raise ValueError(
                f'{title} has a part {name!r} ({parts[name]}) that is not supported; '
                f'{SUPPORTED}.'
            )
    unet = class_of(root / 'unet')
    encoder = class_of(root / 'vae') if latent else None
    text = parts.get('text_encoder', 'CLIPTextModel').removeprefix('Flax')
    second = parts.get('text_encoder_2', 'CLIPTextModelWithProjection')
    if latent and unet != 'UNet2DConditionModel':
        reason = f'a {unet} on the latents of a {encoder}'
    elif latent and encoder != 'AutoencoderKL':
        reason = f'a {encoder} where an AutoencoderKL is needed'
    elif latent and text != 'CLIPTextModel':
        reason = f'a {text} where a CLIPTextModel is needed'
    elif latent and second != 'CLIPTextModelWithProjection':
        reason = f'a {second} where a CLIPTextModelWithProjection is needed'
    else:
        return Layout(root / 'unet', root, latent)
    raise ValueError(f'{title} has {reason}; {SUPPORTED}.')


def _no_unet(title: str, parts: dict[str, str]) -> str:
    if 'transformer' in parts:
        return _transformer(title, parts['transformer'])
    return f'{title} has no unet but {", ".join(parts) or "nothing"}; {SUPPORTED}.'


def _transformer(title: str, kind: str) -> str:
    return (
        f'{title} denoises with a transformer ({kind}), which has no taps here; '
        f'{SUPPORTED}.'
    )
