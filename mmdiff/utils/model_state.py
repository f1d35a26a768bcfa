"""What losses write in a model, and how to put it back."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import repeat
from operator import attrgetter, is_
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Attributes of a module that no loss writes, or that others put back.
LEFT = ('training', '_parameters', '_modules', '_buffers')
# What torch itself keeps in a module, hooks above all.
OF_TORCH = frozenset(vars(nn.Module())) - set(LEFT)
# Objects that are no state of a model: what they hold is not looked at.
OPAQUE = (type, FunctionType, MethodType, ModuleType, nn.Module, torch.Generator)
FOREIGN = ('torch', 'logging', 'threading', 'multiprocessing', 'mmengine.runner')


@dataclass
class KeptTensor:
    """A buffer, or a tensor that is an attribute.

    Args:
        owners: Dictionaries that hold it, and its keys there.
        original: The tensor itself.
        value: Copy of its values.
        current: The tensor that stands in its place now.
        version: Version of ``current`` when it held these values; ``None`` if it counts
            none (made in inference mode).
    """

    owners: list[tuple[dict, str]]
    original: Tensor
    value: Tensor
    current: Tensor
    version: int | None

    def is_written(self) -> bool:
        """Whether another tensor or other values are in its place."""
        if any(owner.get(name) is not self.current for owner, name in self.owners):
            return True
        if self.version is None:
            return not torch.equal(self.current, self.value)
        return self.current._version != self.version

    def reset(self) -> None:
        """Put another tensor of the same values in its place, if it was written.

        Writing the values back would change what a graph may have saved.
        """
        if self.is_written():
            self.current = self.value.clone().requires_grad_(
                self.original.requires_grad
            )
            self.version = version_of(self.current)
            for owner, name in self.owners:
                owner[name] = self.current

    def close(self) -> None:
        """Put the tensor itself back, with its values."""
        restore_values(self.original, self.value)
        for owner, name in self.owners:
            owner[name] = self.original


@dataclass
class KeptNames:
    """What a dictionary of attributes holds beside tensors, under which names.

    Args:
        owner: The dictionary.
        values: What it held, tensors too.
    """

    owner: dict
    values: dict
    names: list[str] = field(init=False)
    plain: list[Any] = field(init=False)

    def __post_init__(self) -> None:
        others = {k: v for k, v in self.values.items() if not isinstance(v, Tensor)}
        self.names, self.plain = list(others), list(others.values())

    def reset(self) -> None:
        """Put back what was replaced or removed, and remove what is new."""
        for name in [k for k in self.owner if k not in self.values and k not in LEFT]:
            del self.owner[name]
        for name, value in zip(self.names, self.plain):
            if self.owner.get(name, LEFT) is not value:
                self.owner[name] = value


@dataclass
class Glance:
    """Attributes and tensors of a model side by side, to be looked at in one go.

    It is done after each gradient of each image, and nearly always in vain.

    Args:
        owners: Dictionaries of attributes.
        counts: How many attributes each has.
        places: Owner, name and value of each attribute but torch's, and tensor.
        tensors: Tensors that count how often they are written.
        versions: How often each was.
        uncounted: Tensors that count nothing.
    """

    owners: list[dict]
    counts: list[int]
    places: tuple[list[dict], list[str], list[Any]]
    tensors: list[Tensor]
    versions: list[int]
    uncounted: list[KeptTensor]

    @classmethod
    def at(cls, names: list[KeptNames], kept: list[KeptTensor]) -> Glance:
        """Look at a model whose state is as it was."""
        owners: list[dict] = []
        attributes: list[str] = []
        values: list[Any] = []
        for one in names:
            # Losses leave what is torch's, most of all there is, as it was.
            own = [
                pair for pair in zip(one.names, one.plain) if pair[0] not in OF_TORCH
            ]
            owners += [one.owner] * len(own)
            attributes += [name for name, _ in own]
            values += [value for _, value in own]
        for tensor in kept:
            owners += [owner for owner, _ in tensor.owners]
            attributes += [name for _, name in tensor.owners]
            values += [tensor.current] * len(tensor.owners)
        counted = [one for one in kept if one.version is not None]
        return cls(
            [one.owner for one in names],
            [len(one.owner) for one in names],
            (owners, attributes, values),
            [one.current for one in counted],
            [one.version for one in counted],  # type: ignore[misc]
            [one for one in kept if one.version is None],
        )

    def is_as_it_was(self) -> bool:
        """Whether nothing was added, removed, replaced or written in place."""
        owners, names, values = self.places
        return (
            list(map(len, self.owners)) == self.counts
            and all(map(is_, map(dict.get, owners, names, repeat(LEFT)), values))
            and [*map(attrgetter('_version'), self.tensors)] == self.versions
            and not any(one.is_written() for one in self.uncounted)
        )


class ModelState:
    """Snapshot of all that a loss may write in a model.

    Some losses remember: they count samples by class in a buffer, or keep numbers,
    lists and tensors as plain attributes of modules, or of samplers, assigners and
    other objects that modules hold. Parameters are not part of it.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._names: list[KeptNames] = []
        self._tensors: dict[int, KeptTensor] = {}
        self._loose: list[tuple[Tensor, Tensor, int | None]] = []
        self._arrays: list[tuple[np.ndarray, np.ndarray]] = []
        self._containers: list[tuple[Any, Any]] = []
        self._hooks: list[tuple[Any, Any]] = []
        self._seen: dict[int, Any] = {}
        for module in model.modules():
            attributes = {k: v for k, v in vars(module).items() if k not in LEFT}
            self._keep_names(vars(module), attributes)
            self._keep_names(module._buffers, dict(module._buffers))
        self._glance = self._look()

    def _look(self) -> Glance:
        return Glance.at(self._names, list(self._tensors.values()))

    def _keep_names(self, owner: dict, values: dict) -> None:
        """Keep what a dictionary of attributes holds, under which names."""
        self._names.append(KeptNames(owner, values))
        for name, value in values.items():
            if isinstance(value, Tensor):
                self._keep_tensor(owner, name, value)
            elif name in OF_TORCH and isinstance(value, dict | set):
                # dict() and set(): copy() of OrderedDict is slow, and most are empty.
                plain = dict(value) if isinstance(value, dict) else set(value)
                self._hooks.append((value, plain))
            else:
                self._look_into(value)

    def _keep_tensor(self, owner: dict, name: str, value: Tensor) -> None:
        kept = self._tensors.get(id(value))
        if kept is None:
            copy, version = value.detach().clone(), version_of(value)
            kept = KeptTensor([], value, copy, value, version)
            self._tensors[id(value)] = kept
        kept.owners.append((owner, name))

    def _look_into(self, value: Any) -> None:
        """Keep what a container or a plain object holds."""
        if id(value) in self._seen or isinstance(value, OPAQUE):
            return
        self._seen[id(value)] = value
        if isinstance(value, Tensor):
            self._loose.append((value, value.detach().clone(), version_of(value)))
        elif isinstance(value, np.ndarray):
            self._arrays.append((value, value.copy()))
        elif isinstance(value, list | deque | set | dict):
            plain = dict(value) if isinstance(value, dict) else list(value)
            self._containers.append((value, plain))
            for item in plain.values() if isinstance(plain, dict) else plain:
                self._look_into(item)
        elif isinstance(value, tuple):
            for item in value:
                self._look_into(item)
        elif hasattr(value, '__dict__'):
            if not type(value).__module__.startswith(FOREIGN):
                self._keep_names(vars(value), dict(vars(value)))

    def reset(self) -> None:
        """Undo what was written since; costs little where nothing was."""
        if not self._glance.is_as_it_was():
            for kept in self._tensors.values():
                kept.reset()
            for names in self._names:  # a tensor that is back is counted
                names.reset()
            self._glance = self._look()
        self._reset_contents()

    def is_written(self) -> bool:
        """Whether anything is another object, or holds something else."""
        return not self._glance.is_as_it_was() or self._holds_other_things()

    def _holds_other_things(self) -> bool:
        """Whether containers, arrays or tensors in them hold something else."""
        return (
            any(not _is_same(*pair) for pair in self._containers)
            or any(
                (version is None or tensor._version != version)
                and not torch.equal(tensor, value)
                for tensor, value, version in self._loose
            )
            or any(not np.array_equal(*pair) for pair in self._arrays)
        )

    def _reset_contents(self) -> None:
        _reset_containers(self._containers)
        for tensor, value, version in self._loose:
            if version is None or tensor._version != version:
                restore_values(tensor, value)
        for array, values in self._arrays:
            if not np.array_equal(array, values):
                array[...] = values

    def close(self) -> None:
        """Put back the objects themselves; the last call."""
        self.reset()
        for names in self._names:
            names.reset()
        # No loss asks for hooks; those of all modules are most of what there is.
        _reset_containers(self._hooks)
        for kept in self._tensors.values():
            kept.close()


@contextmanager
def kept_state(model: nn.Module) -> Iterator[ModelState]:
    """Give the model's state, which is put back at the end and whenever asked.

    Example:
        >>> model = nn.BatchNorm1d(2)
        >>> with kept_state(model) as state:
        ...     _ = model.num_batches_tracked.add_(1)
        ...     model.calls = 3
        ...     state.reset()
        ...     int(model.num_batches_tracked), hasattr(model, 'calls')
        (0, False)
    """
    state = ModelState(model)
    try:
        yield state
    finally:
        state.close()


def version_of(tensor: Tensor) -> int | None:
    """How often a tensor was written in place; ``None`` if it does not count."""
    return None if tensor.is_inference() else tensor._version


def restore_values(tensor: Tensor, value: Tensor) -> None:
    """Write values back into a tensor in place, unless it has them."""
    if not torch.equal(tensor, value):
        with torch.inference_mode(tensor.is_inference()), torch.no_grad():
            tensor.copy_(value)


def _reset_containers(pairs: list[tuple[Any, Any]]) -> None:
    """Give containers the items that they had before."""
    for container, before in pairs:
        if not _is_same(container, before):
            _refill(container, before)


def _is_same(container: Any, before: Any) -> bool:
    """Whether a container holds the very same objects as before."""
    return len(container) == len(before) and _same_items(container, before)


def _same_items(container: Any, before: Any) -> bool:
    """Whether a container holds the very same objects as one of the same length."""
    if isinstance(container, dict):
        if container.keys() != before.keys():
            return False
        # Past what subclasses make of their items.
        known = map(dict.__getitem__, repeat(container), before)
        return all(map(is_, known, before.values()))
    if isinstance(container, set):
        return all(item in container for item in before)
    return all(map(is_, container, before))


def _refill(container: Any, before: Any) -> None:
    """Give a container the items that it had."""
    if isinstance(container, dict):  # past what subclasses make of their items
        dict.clear(container)
        dict.update(container, before)
    else:
        container.clear()
        fill = getattr(container, 'update', None) or container.extend
        fill(before)
