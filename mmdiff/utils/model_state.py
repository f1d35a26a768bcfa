"""What losses write in a model, and how to put it back."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

# Attributes of a module that no loss writes, or that others put back.
LEFT = ('training', '_parameters', '_modules', '_buffers')


@dataclass
class KeptTensor:
    """A buffer or a tensor attribute.

    Args:
        owner: Dictionary that holds it.
        name: Its key there.
        original: The tensor itself.
        value: Copy of its values.
        current: The tensor that stands in its place now.
        version: Version of ``current`` when it held these values.
    """

    owner: dict
    name: str
    original: Tensor
    value: Tensor
    current: Tensor
    version: int

    def reset(self) -> None:
        """Put another tensor of the same values in its place, if it was written.

        Writing the values back would change what a graph may have saved.
        """
        now = self.owner.get(self.name)
        if now is not self.current or now._version != self.version:
            self.owner[self.name] = self.current = self.value.clone()
            self.version = self.current._version

    def close(self) -> None:
        """Put the tensor itself back, with its values."""
        if not self.original.equal(self.value):
            self.original.copy_(self.value)
        self.owner[self.name] = self.original


class ModelState:
    """Snapshot of all that a loss may write in a model.

    Some losses remember: they count samples by class in a buffer, or keep numbers,
    lists and tensors as plain attributes of modules. Parameters are not part of it.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._plain: list[tuple[dict, dict]] = []
        self._tensors: list[KeptTensor] = []
        self._containers: list[tuple] = []
        for module in model.modules():
            own = {k: v for k, v in vars(module).items() if k not in LEFT}
            self._keep(vars(module), own)
            self._keep(module._buffers, dict(module._buffers))

    def _keep(self, owner: dict, values: dict) -> None:
        self._plain.append((owner, values))
        for name, value in values.items():
            if isinstance(value, Tensor):
                copy = value.detach().clone()
                version = value._version
                self._tensors.append(
                    KeptTensor(owner, name, value, copy, value, version)
                )
            elif type(value) in (list, dict, set):
                self._containers.append((value, value.copy()))

    def reset(self) -> None:
        """Undo what was written since; costs little where nothing was."""
        for tensor in self._tensors:
            tensor.reset()
        for owner, before in self._plain:
            for name in [k for k in owner if k not in before and k not in LEFT]:
                del owner[name]
            for name, value in before.items():
                if not isinstance(value, Tensor) and owner.get(name, LEFT) is not value:
                    owner[name] = value
        for container, before in self._containers:
            if not _same_items(container, before):
                container.clear()
                fill = getattr(container, 'update', None) or container.extend
                fill(before)

    def close(self) -> None:
        """Put back the objects themselves; the last call."""
        self.reset()
        for tensor in self._tensors:
            tensor.close()


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


def _same_items(container: Any, before: Any) -> bool:
    """Whether two containers hold the very same objects."""
    if isinstance(container, set):
        return container == before
    if len(container) != len(before):
        return False
    if isinstance(container, dict):
        return all(container.get(key, LEFT) is before[key] for key in before)
    return all(a is b for a, b in zip(container, before))
