"""Convert EDM's checkpoints (Karras et al. 2022) to a folder of an ``EDMPrecond``."""

import json
from pathlib import Path

import torch
from torch import Tensor

from ...utils.files import whole_folder
from ..json_files import one_line
from ..networks import EDMPrecond
from .restricted_pickle import (
    Inert,
    PersistentObject,
    check_file,
    load_pickle,
    load_state_dict,
)

# In the order of EDMPrecond's constructor, for arguments without a name.
ARGUMENTS = (
    'img_resolution',
    'img_channels',
    'label_dim',
    'use_fp16',
    'sigma_min',
    'sigma_max',
    'sigma_data',
    'model_type',
)


def collect_tensors(module: Inert, prefix: str = '') -> dict[str, Tensor]:
    """Return the state dict of a pickled module and of everything in it."""
    state: dict[str, Tensor] = {}
    volatile = module.state.get('_non_persistent_buffers_set', ())
    for kind in ('_parameters', '_buffers'):
        for name, value in module.state.get(kind, {}).items():
            if isinstance(value, Tensor) and name not in volatile:
                state[prefix + name] = value
    for name, child in module.state.get('_modules', {}).items():
        if isinstance(child, Inert):
            state.update(collect_tensors(child, f'{prefix}{name}.'))
    return state


def read_edm_pickle(path: str | Path) -> tuple[dict, dict[str, Tensor]]:
    """Read constructor arguments and weights of the network under ``'ema'``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or holds no ``EDMPrecond``.
    """
    content = load_pickle(path)
    net = content.get('ema') if isinstance(content, dict) else None
    if not isinstance(net, PersistentObject) or not isinstance(net.state, dict):
        raise ValueError(
            f'{path} is no checkpoint of EDM: it has no network under "ema".'
        )
    if net.class_name != 'EDMPrecond':
        raise ValueError(
            f'{path} holds a {net.class_name}; only networks with the preconditioning '
            'EDMPrecond can be converted.'
        )
    try:
        args = dict(zip(ARGUMENTS, net.state.get('_init_args', ())))
        return {**args, **net.state.get('_init_kwargs', {})}, collect_tensors(net)
    except (AttributeError, RecursionError, TypeError):
        raise ValueError(f'{path} holds a malformed network.') from None


def read_config(path: str | Path) -> dict:
    """Read constructor arguments of an ``EDMPrecond`` from a JSON file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no JSON object.
    """
    try:
        config = json.loads(check_file(path).read_text())
    except ValueError as error:
        raise ValueError(f'{path} is no JSON ({error}).') from None
    if not isinstance(config, dict):
        raise ValueError(f'{path} must hold an object of EDMPrecond arguments.')
    return config


def convert_edm(
    source: str | Path, out: str | Path, config: str | Path | None = None
) -> None:
    """Convert a checkpoint to a folder that ``DiffusionModel`` reads.

    Args:
        source: NVIDIA's ``.pkl``, read without executing the code in it; or, with
            ``config``, a state dict that ``torch.save`` wrote.
        out: Folder to write; it must not exist. It appears whole or not at all.
        config: JSON file with the arguments of ``EDMPrecond``.

    Raises:
        FileNotFoundError: If a file is missing.
        FileExistsError: If ``out`` exists.
        ValueError: If the file cannot be read, or is of another architecture.
    """
    with whole_folder(Path(out).expanduser()) as folder:
        if config is None:
            args, state = read_edm_pickle(source)
        else:
            args, state = read_config(config), load_state_dict(source)
        build_network(args, state, source).save_pretrained(folder)


def build_network(
    args: dict, state: dict[str, Tensor], source: str | Path
) -> EDMPrecond:
    """Build the network with arguments and weights of the checkpoint ``source``.

    Raises:
        ValueError: If they do not belong together, or make no network.
    """
    state = {k: v.float().contiguous().clone() for k, v in state.items()}
    try:
        json.dumps(args)
        with torch.device('meta'):
            network = EDMPrecond(**args)
        network.load_state_dict(state, assign=True)
    except (RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f'{source} is not of a known architecture: {one_line(error)}'
        ) from None
    return network
