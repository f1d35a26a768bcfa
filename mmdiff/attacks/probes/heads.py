"""What heads make of the features that they are given."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from .tensors import flat, widest_gap

# Heads, and stages of a cascade: ``bbox_head``, ``roi_head.bbox_head.2``.
HEAD = re.compile(r'(^|_|\.)head(\.\d+)?$')
# Features and scores of each call of each head, by its name.
Calls = dict[str, list[tuple[list[Tensor], list[Tensor]]]]


@contextmanager
def listening_to_heads(
    model: nn.Module, hook_of: Callable[[str], Callable]
) -> Iterator[None]:
    """Let hooks note what heads do meanwhile.

    Args:
        model: The model.
        hook_of: Gives the forward hook of a head, by its name.
    """
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if HEAD.search(name):
                handle = module.register_forward_hook(hook_of(name))
                stack.callback(handle.remove)
        yield


class Heads:
    """Listen to the calls of each head.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._calls: Calls = {}

    def listening(self) -> AbstractContextManager[None]:
        """Note what goes in and comes out meanwhile."""
        return listening_to_heads(self.model, self._note)

    def take(self) -> Calls:
        """Features and scores of the calls since the last time, by head."""
        calls, self._calls = self._calls, {}
        return calls

    def _note(self, name: str) -> Any:
        def noting(module: nn.Module, inputs: Any, outputs: Any) -> None:
            # Boxes may be in other units in a test, as FCOS has them: scores are not.
            kinds = outputs if isinstance(outputs, list | tuple) else [outputs]
            scores = flat(kinds[0]) if len(kinds) else []
            call = [x.detach() for x in flat(inputs)], [x.detach() for x in scores]
            self._calls.setdefault(name, []).append(call)

        return noting


def head_gap(in_test: Calls, in_loss: Calls) -> float:
    """Largest relative difference of scores where features are the same.

    First calls are compared. Heads on boxes are given others in a test than for the
    loss, and are not compared.

    Args:
        in_test: What :meth:`Heads.take` gave after a test.
        in_loss: The same after a loss.
    """
    gaps = [0.0]
    for name in in_test.keys() & in_loss.keys():
        features, scores = in_test[name][0]
        same, scores_in_loss = in_loss[name][0]
        if widest_gap(features, same) == 0:
            gaps.append(widest_gap(scores, scores_in_loss) or 0.0)
    return max(gaps)


def dense_heads(in_loss: Calls, features: list[Tensor]) -> list[str]:
    """Names of the heads that losses give nothing but features of the model.

    Args:
        in_loss: What :meth:`Heads.take` gave after a loss.
        features: What ``extract_feat`` gives.
    """
    return [
        name
        for name, calls in in_loss.items()
        if calls[0][0]
        and all(
            any(widest_gap([given], [own]) == 0 for own in features)
            for given in calls[0][0]
        )
    ]


def features_gap(in_test: Calls, in_loss: Calls, names: list[str]) -> float:
    """Largest relative difference of what heads are given in a test and for a loss.

    Args:
        in_test, in_loss: See :func:`head_gap`.
        names: Heads that can be compared: :func:`dense_heads`.
    """
    gaps = [
        widest_gap(in_test[name][0][0], in_loss[name][0][0])
        for name in names
        if name in in_test
    ]
    # Of other shapes: another size of the image, say.
    return max((1.0 if gap is None else gap for gap in gaps), default=0.0)


def more_calls(in_test: Calls, in_loss: Calls, names: list[str]) -> int:
    """How many more times a test asks one of these heads than a loss does."""
    return max((len(in_test.get(n, ())) - len(in_loss[n]) for n in names), default=0)
