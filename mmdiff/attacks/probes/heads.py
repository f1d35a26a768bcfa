"""What heads make of the features that they are given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from .parts import HEAD
from .tensors import flat, relative_gap

# Relative difference that is rounding.
ROUNDING = 1e-5


class Heads:
    """Listen to the first call of each head.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._calls: dict[str, tuple[list[Tensor], list[Tensor]]] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note what goes in and comes out meanwhile."""
        with ExitStack() as stack:
            for name, module in self.model.named_modules():
                if HEAD.search(name):
                    handle = module.register_forward_hook(self._note(name))
                    stack.callback(handle.remove)
            yield

    def take(self) -> dict[str, tuple[list[Tensor], list[Tensor]]]:
        """Features and scores of the first calls since the last time, by head."""
        calls, self._calls = self._calls, {}
        return calls

    def _note(self, name: str) -> Any:
        def noting(module: nn.Module, inputs: Any, outputs: Any) -> None:
            # Boxes may be in other units in a test, as FCOS has them: scores are not.
            kinds = outputs if isinstance(outputs, list | tuple) else [outputs]
            scores = flat(kinds[0]) if len(kinds) else []
            call = [x.detach() for x in flat(inputs)], [x.detach() for x in scores]
            self._calls.setdefault(name, call)

        return noting


def head_gap(first: dict[str, tuple], second: dict[str, tuple]) -> float:
    """Largest relative difference of scores where features are the same.

    Heads on boxes are given others in a test than for the loss, and are not compared.

    Args:
        first: What :meth:`Heads.take` gave.
        second: The same of another way to ask.
    """
    gaps = [0.0]
    for name in first.keys() & second.keys():
        (features, scores), (others, their_scores) = first[name], second[name]
        if not features or _gap(features, others) != 0:
            continue
        gaps.append(_gap(scores, their_scores) or 0.0)
    return max(gaps)


def _gap(first: list[Tensor], second: list[Tensor]) -> float | None:
    """Largest relative difference; ``None`` if the tensors are not of one kind."""
    if [x.shape for x in first] != [x.shape for x in second]:
        return None
    gap = max((relative_gap(*pair) for pair in zip(first, second)), default=0.0)
    return gap if gap > ROUNDING else 0.0
