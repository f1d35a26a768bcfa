"""Read and write the files of a prior: settings, weights, noise schedule."""

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from diffusers import DDPMScheduler
from torch import nn

from ..utils.digests import digest_file

WEIGHTS_NAME = 'diffusion_pytorch_model.safetensors'


def one_line(error: Exception) -> str:
    """Return the start of an error's text, without line breaks."""
    return ' '.join(str(error).split())[:300]


def class_of(folder: Path) -> str:
    """Return the name of the class that wrote the ``config.json`` in ``folder``.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is not JSON.
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


def load_network(cls: Any, folder: Path, random_weights: bool = False) -> nn.Module:
    """Read a network of diffusers; every weight must come from the file.

    Args:
        cls: Class of the network, with diffusers' ``from_pretrained``.
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
    weights = folder / WEIGHTS_NAME
    if weights.is_file() or not weights.with_suffix('.bin').is_file():
        check_weights_of(folder)
    try:
        network, info = cls.from_pretrained(
            folder, output_loading_info=True, low_cpu_mem_usage=False
        )
    except (RuntimeError, ValueError, TypeError) as error:
        raise _misfit(folder, one_line(error)) from None
    odd = [*info['missing_keys'], *info['unexpected_keys']]
    if odd:
        raise _misfit(
            folder,
            f'{len(odd)} names are missing or unknown, among them {odd[0]!r}.',
        )
    return network


def load_weights(network: nn.Module, folder: Path) -> None:
    """Load the safetensors in ``folder``; names and shapes must be the network's.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If they are cut short, or do not fit.
    """
    check_weights_of(folder)
    try:
        network.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS_NAME))
    except RuntimeError as error:
        raise _misfit(folder, one_line(error)) from None


def _misfit(folder: Path, reason: str) -> ValueError:
    return ValueError(f'The weights in {folder} do not fit its config.json: {reason}')


def check_weights_of(folder: Path) -> None:
    """Complain about a folder whose weights are missing or damaged.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: See :func:`check_weights`.
    """
    weights = folder / WEIGHTS_NAME
    if not weights.is_file():
        raise FileNotFoundError(
            f'{folder} has a config.json but no weights ({WEIGHTS_NAME}); copy the '
            'weights next to it, or give a config dict for random weights.'
        )
    check_weights(weights)


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
    if sums.is_file() and digest_file(weights) not in sums.read_text().split():
        raise ValueError(
            f'{weights} does not match the SHA256 file beside it; it was changed '
            'or damaged: fetch or export it again.'
        )


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


def save_network(network: nn.Module, folder: str | Path) -> None:
    """Write ``config.json`` and weights of a network of diffusers."""
    # Where it was read from is nobody's business.
    network.register_to_config(_name_or_path='')
    network.save_pretrained(folder)
    # safetensors makes files that only their writer may read.
    for file in Path(folder).glob('*.safetensors'):
        file.chmod(0o644)
