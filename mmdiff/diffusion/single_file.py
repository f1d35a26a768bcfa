"""Read Stable Diffusion from one file with the names of its authors' code."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import safetensors.torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from torch import Tensor

from .weights import check_weight_file, load_exactly

SINGLE_FILES = ('.safetensors', '.ckpt', '.pt', '.pth', '.bin')


def is_single_file(source: str | Path) -> bool:
    """Say whether a source names one file, not a folder or a hub id."""
    try:
        file = Path(source).expanduser()
    except TypeError:
        return False
    return file.suffix in SINGLE_FILES and not file.is_dir()


class SingleFile:
    """U-Net and VAE of Stable Diffusion 1.x, 2.x or SDXL in one safetensors file.

    The names are those of the authors' code (``model.diffusion_model.``,
    ``first_stage_model.``); diffusers' own converters turn them into its names. Such a
    file has no settings, so a folder must say them; the prompt is embedded by that
    folder too. Where a file has averaged weights besides (``model_ema.``), the others
    are taken, as diffusers does.

    Args:
        file: The safetensors file.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is cut short, or no safetensors file.
    """

    def __init__(self, file: Path) -> None:
        check_weight_file(file)
        self.file = file

    @property
    def needs_config(self) -> str:
        """What to say to who gave no settings."""
        return (
            f'{self.file} has weights alone; give config=FOLDER, a diffusers folder '
            '(or hub id) of the same version of Stable Diffusion, with '
            'model_index.json, '
            'unet/config.json, vae/config.json, scheduler and, for the prompt, '
            'tokenizer and text_encoder with weights, or prompt_embeds.safetensors.'
        )

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """All weights of the file."""
        return safetensors.torch.load_file(self.file)

    def load_unet(self, unet: UNet2DConditionModel) -> None:
        """Give a U-Net the file's weights, each of them.

        Raises:
            ValueError: If they do not fit.
        """
        self._load(unet, convert_ldm_unet_checkpoint)

    def load_vae(self, vae: AutoencoderKL) -> None:
        """Give an autoencoder the file's weights, each of them.

        Raises:
            ValueError: If they do not fit.
        """
        self._load(vae, convert_ldm_vae_checkpoint)

    def _load(
        self, network: UNet2DConditionModel | AutoencoderKL, convert: Callable
    ) -> None:
        try:
            state = convert(self.state, dict(network.config))
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise ValueError(
                f'{self.file} does not fit the {type(network).__name__} of config '
                f'({type(error).__name__}: {error}); give the folder of its version of '
                'Stable Diffusion.'
            ) from None
        load_exactly(network, state, str(self.file))
