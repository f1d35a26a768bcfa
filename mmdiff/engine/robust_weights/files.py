"""Read published checkpoints, check them name by name, and write those of mm models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdiff.diffusion.converters.restricted_pickle import load_checkpoint
from mmdiff.utils.files import whole_file

from .preprocessing import Preprocessing

# Weights in a checkpoint, by the scripts that write them: MadryLab's library, mmcv and
# timm, Singh et al.; the moving averages of timm and of Singh et al.
KEYS = ('model', 'state_dict', 'model_state_dict', 'state_dict_ema', 'model_ema', 'ema')
# What wrappers of modules put before every name: DDP, torch.compile, and WrappedModel
# of nmndeep/revisiting-at (main.py).
PREFIXES = ('module.', '_orig_mod.', 'base_model.')


@dataclass(frozen=True)
class Published:
    """A checkpoint as it was found.

    Args:
        path: Its file.
        state: Weights by name, without the prefixes of wrappers.
        meta: What mmcv wrote beside them.
    """

    path: Path
    state: dict[str, Tensor]
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Converted:
    """Weights of an mm model, and what a config has to say beside them.

    Args:
        state: By the names of the model.
        preprocessing: What they expect of images.
        backbone: Its config; of a detector, which has a config already, empty.
        origin: Whose weights they are.
        meta: To be saved beside them.
        anew: Names in the backbone of the user's config that are not among them.
    """

    state: dict[str, Tensor]
    preprocessing: Preprocessing
    backbone: dict[str, Any]
    origin: str
    meta: dict[str, Any] = field(default_factory=dict)
    anew: tuple[str, ...] = ()

    @property
    def has_head(self) -> bool:
        """Whether there are weights of anything but the backbone."""
        return any(not name.startswith('backbone.') for name in self.state)


def read_published(path: str | Path, key: str | None = None) -> Published:
    """Read a checkpoint without executing anything in it.

    Args:
        path: File of ``torch.save``.
        key: Which of several sets of weights in it; ``None`` is the only one.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it cannot be read, or has no or several sets of weights.
    """
    content = load_checkpoint(path)
    if not isinstance(content, Mapping):
        raise ValueError(
            f'{path} holds a {type(content).__name__}; give a checkpoint with named '
            'weights.'
        )
    sets = {k: content[k] for k in KEYS if _has_weights(content.get(k))}
    if _has_weights(content):
        sets = {'': content}
    if key is not None:
        sets = {k: v for k, v in sets.items() if k == key}
    if len(sets) != 1:
        have = ', '.join(k for k in KEYS if _has_weights(content.get(k))) or 'none'
        wanted = 'none is chosen' if key is None else f'{key!r} is asked for'
        raise ValueError(
            f'{path} has these sets of weights: {have}, and {wanted}; give --key with '
            'the name of one.'
        )
    (state,) = sets.values()
    odd = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if odd:
        raise ValueError(
            f'{path} has {odd[0]!r} among its weights, which is no tensor; save the '
            'state_dict alone.'
        )
    meta = content.get('meta')
    return Published(
        Path(path), _without_prefixes(state), meta if isinstance(meta, dict) else {}
    )


def _has_weights(value: Any) -> bool:
    """Whether it has named tensors."""
    return isinstance(value, Mapping) and any(
        isinstance(each, Tensor) for each in value.values()
    )


def _without_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without what wrappers of modules put before all of them."""
    named = dict(state)
    while True:
        common = (p for p in PREFIXES if all(name.startswith(p) for name in named))
        prefix = next(common, None)
        if prefix is None:
            return named
        named = {name.removeprefix(prefix): value for name, value in named.items()}


def check_names(
    state: Mapping[str, Tensor], needed: Mapping[str, Tensor], source: object, of: str
) -> None:
    """Complain about weights that are not exactly those of a model.

    Args:
        state: The weights.
        needed: Tensors of the model, on any device.
        source: The file, for messages.
        of: The model, for messages.

    Raises:
        ValueError: If any is missing, left over, or of another shape.
    """
    differences = {
        'missing': [name for name in needed if name not in state],
        'left over': [name for name in state if name not in needed],
        'of another shape': [
            f'{name} {tuple(state[name].shape)} for {tuple(needed[name].shape)}'
            for name in needed
            if name in state and state[name].shape != needed[name].shape
        ],
    }
    parts = [
        f'{len(names)} {what} ({", ".join(names[:3])}{", ..." * (len(names) > 3)})'
        for what, names in differences.items()
        if names
    ]
    if parts:
        raise ValueError(
            f'{source} has not the weights of {of}: {"; ".join(parts)}; nothing was '
            'written.'
        )


def write_converted(converted: Converted, out: str | Path) -> Path:
    """Write a checkpoint of an mm model.

    Args:
        converted: What to write.
        out: ``FILE.pth``, which must not exist.

    Raises:
        FileExistsError: If it exists.
        ValueError: For another suffix.
    """
    out = check_out(out)
    meta = {
        **converted.meta,
        'origin': converted.origin,
        'preprocessing': {
            'mean': [*converted.preprocessing.mean],
            'std': [*converted.preprocessing.std],
            'rgb': converted.preprocessing.rgb,
        },
    }
    state = {name: value.contiguous() for name, value in converted.state.items()}
    with whole_file(out) as partial:
        torch.save({'meta': meta, 'state_dict': state}, partial)
    return out


def check_out(out: str | Path) -> Path:
    """Complain about a file that cannot be written, and return its path.

    Raises:
        FileExistsError: If it exists.
        ValueError: For another suffix than ``.pth``.
    """
    out = Path(out).expanduser()
    if out.suffix != '.pth':
        raise ValueError(f'{out} must end with .pth, as checkpoints of mm models do.')
    if out.exists():
        raise FileExistsError(f'{out} exists already; remove it or give another name.')
    return out
