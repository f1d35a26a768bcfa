"""Read and write the networks of a prior: settings and weights."""

from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from ..utils.digests import digest_file
from .json_files import check_pointer, one_line, read_json

WEIGHTS_NAME = 'diffusion_pytorch_model.safetensors'


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
    return read_json(folder / 'config.json').get('_class_name', 'UNet2DModel')


def check_class(folder: Path, needed: str) -> None:
    """Complain about a folder of another network than the one needed.

    Raises:
        FileNotFoundError: If it has no ``config.json``.
        ValueError: If that is of another class.
    """
    name = class_of(folder)
    if name != needed:
        raise ValueError(f'{folder} holds a {name}; a {needed} is needed.')


def load_network(
    cls: Any, folder: Path, random_weights: bool = False, variant: str | None = None
) -> nn.Module:
    """Read a network of diffusers; every weight must come from the file.

    Args:
        cls: Class of the network, with diffusers' ``from_pretrained``.
        folder: Holds its ``config.json`` and weights.
        random_weights: Read the config only.
        variant: Which of several copies of the weights to read.

    Raises:
        FileNotFoundError: If the folder holds no config or no weights.
        ValueError: If the weights are cut short, or do not fit the config.
    """
    check_class(folder, cls.__name__)
    if random_weights:
        return cls.from_config(cls.load_config(folder))
    find_weights(folder, variant)
    try:
        network, info = cls.from_pretrained(
            folder,
            output_loading_info=True,
            low_cpu_mem_usage=False,
            variant=variant,
            local_files_only=True,
        )
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise _misfit(folder, one_line(error)) from None
    odd = [*info['missing_keys'], *info['unexpected_keys']]
    if odd:
        raise _misfit(
            folder,
            f'{len(odd)} names are missing or unknown, among them {odd[0]!r}.',
        )
    # The network runs in full precision unless it is cast, whatever the file has.
    return network.float()


def load_weights(network: nn.Module, folder: Path, variant: str | None = None) -> None:
    """Load the safetensors in ``folder``; names and shapes must be the network's.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If they are cut short, or do not fit.
    """
    state = {}
    for file in find_weights(folder, variant):
        if file.suffix != '.safetensors':
            raise FileNotFoundError(
                f'{folder} has {file.name} where {WEIGHTS_NAME} is needed; convert or '
                'export the prior again.'
            )
        state.update(safetensors.torch.load_file(file))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise _misfit(folder, one_line(error)) from None


def replace_weights(network: nn.Module, file: Path) -> None:
    """Load one safetensors file; names and shapes must be the network's, each of them.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is cut short, or does not fit.
    """
    check_weight_file(file)
    load_exactly(network, safetensors.torch.load_file(file), str(file))


def check_weight_file(file: Path) -> None:
    """Complain about what is no safetensors file, or a damaged one.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is cut short, damaged, or of another kind.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f'There is no file {str(file)!r}; give a safetensors file.'
        )
    if file.suffix != '.safetensors':
        raise ValueError(
            f'{file} is no safetensors file; convert it (a pickle could execute code).'
        )
    check_weights(file)


def load_exactly(network: nn.Module, state: dict[str, Tensor], title: str) -> None:
    """Load weights by their names; each of the network's must be there, and no other.

    Args:
        network: Gets the weights, in its own precision.
        state: The weights.
        title: What they are called in errors.

    Raises:
        ValueError: If a name is missing, superfluous, or of another shape.
    """
    own = network.state_dict()
    kind = type(network).__name__
    missing = [name for name in own if name not in state]
    extra = [name for name in state if name not in own]
    for names, fault in ((missing, 'lack'), (extra, 'have besides')):
        if names:
            raise ValueError(
                f'The weights in {title} do not fit this {kind}: they {fault} '
                f'{len(names)} of {len(own)} names, among them {names[0]!r}; give '
                'weights of the same network, by the names of diffusers.'
            )
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise ValueError(
                f'The weights in {title} do not fit this {kind}: {name!r} has the '
                f'shape {tuple(state[name].shape)} where {tuple(tensor.shape)} is '
                'needed; give weights of the same network.'
            )
    network.load_state_dict(state)


def _misfit(folder: Path, reason: str) -> ValueError:
    return ValueError(f'The weights in {folder} do not fit its config.json: {reason}')


def find_weights(folder: Path, variant: str | None = None) -> list[Path]:
    """Return the weight files of a network: one, or the shards of one.

    Args:
        folder: Of the network.
        variant: Which of several copies (``'fp16'``).

    Raises:
        FileNotFoundError: If there are none, or shards are missing.
        ValueError: If one is damaged; see :func:`check_weights`.
    """
    mark = f'.{variant}' if variant else ''
    stem = WEIGHTS_NAME.split('.')[0]
    for suffix in ('safetensors', 'bin'):
        single = folder / f'{stem}{mark}.{suffix}'
        if single.is_file():
            files = [single]
            break
        index = folder / f'{stem}.{suffix}.index{mark}.json'
        if index.is_file():
            names = read_json(index).get('weight_map', {}).values()
            files = [folder / name for name in sorted(set(names))]
            break
    else:
        raise FileNotFoundError(_no_weights(folder, variant))
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(
                f'{folder} lacks the part {file.name} of its weights; fetch it again.'
            )
        check_pointer(file)
        if file.suffix == '.safetensors':
            check_weights(file)
    return files


def _no_weights(folder: Path, variant: str | None) -> str:
    stem = WEIGHTS_NAME.split('.')[0]
    others = {
        name.split('.')[1].split('-')[0]
        for name in (path.name for path in folder.glob(f'{stem}.*.safetensors'))
    }
    if others:
        other = sorted(others)[0]
        wanted = f'variant={variant!r}' if variant else 'no variant'
        return (
            f'{folder} has weights of variant={other!r} and you asked for {wanted}; '
            f"give model=dict(source=..., variant='{other}')."
        )
    name = f'{stem}.{variant}.safetensors' if variant else WEIGHTS_NAME
    return (
        f'{folder} has a config.json but no weights ({name}); copy the '
        'weights next to it, or give a config dict for random weights.'
    )


def check_weights(weights: Path) -> None:
    """Complain about a damaged weight file.

    A ``SHA256`` file beside the weights (``sha256sum``'s format) is compared.

    Raises:
        ValueError: If the file is cut short, or is not the one that was written.
    """
    check_pointer(weights)
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


def save_network(network: nn.Module, folder: str | Path) -> None:
    """Write ``config.json`` and weights of a network of diffusers."""
    # Where it was read from is nobody's business.
    network.register_to_config(_name_or_path='')
    network.save_pretrained(folder)
    # safetensors makes files that only their writer may read.
    for file in Path(folder).glob('*.safetensors'):
        file.chmod(0o644)
