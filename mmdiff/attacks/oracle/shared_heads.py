"""One pass of a dense head for all images, whose losses are then taken one by one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from torch import Tensor, nn

from mmdiff.utils.modules import replaced

POSITIONAL = inspect.Parameter.POSITIONAL_OR_KEYWORD
# Relative difference of outputs that is rounding: TF32 has ten bits.
SAME = 5e-3


def take(nested: Any, i: int) -> Any:
    """Image ``i`` of nested batched tensors, as a batch of one."""
    if isinstance(nested, Tensor):
        return nested[i : i + 1]
    if isinstance(nested, dict):
        return {key: take(value, i) for key, value in nested.items()}
    return type(nested)(take(value, i) for value in nested)


def tensors_of(nested: Any) -> Iterator[Tensor | None]:
    """All tensors of nested values; ``None`` for each that is something else."""
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, dict | list) or type(nested) is tuple:
        values = nested.values() if isinstance(nested, dict) else nested
        for value in values:
            yield from tensors_of(value)
    else:
        yield None


@dataclass
class SharedHead:
    """A head, and what it makes of the features of a batch.

    Args:
        head: The head.
        outputs: Nested outputs, each with all images.
    """

    head: nn.Module
    outputs: Any

    @contextmanager
    def of_image(self, i: int, features: Any) -> Iterator[None]:
        """Let the head know what it makes of one image's features.

        Args:
            i: Number of the image.
            features: The very object that the head will be given.
        """
        forward, outputs = self.head.forward, take(self.outputs, i)

        def known(x: Any, *args: Any, **kwargs: Any) -> Any:
            alike = x is features and not (args or kwargs)
            return outputs if alike else forward(x, *args, **kwargs)

        with replaced(self.head, 'forward', known):
            yield


class SharedHeads:
    """The heads of a detector that are functions of each image's features alone.

    A loss for each image asks its head once an image; small heads then take longer
    than the rest of the detector. A head that takes features and nothing else is asked
    for all images at once, unless it gives an image other outputs then (it draws
    random numbers, or looks at the batch), writes in the model, or gives back what has
    no place for each image.

    Args:
        model: The detector.
    """

    def __init__(self, model: nn.Module) -> None:
        heads = [getattr(model, name, None) for name in ('bbox_head', 'rpn_head')]
        self._heads: list[BaseDenseHead] = list(filter(_takes_features_alone, heads))
        self._tried: set[int] = set()

    def ask(
        self, features: Any, count: int, is_written: Callable[[], bool]
    ) -> list[SharedHead]:
        """Ask all heads that can be asked at once.

        Args:
            features: Nested features of the batch.
            count: Number of images.
            is_written: Whether anything in the model was changed.
        """
        asked = []
        for head in list(self._heads):
            # Not head(...): what listens to it does so once an image, in the loss.
            outputs = head.forward(features)
            if (
                is_written()
                or not _has_each_image(outputs, count)
                or not self._is_same_alone(head, features, outputs, count)
            ):
                self._heads.remove(head)
            else:
                asked.append(SharedHead(head, outputs))
        return asked

    def _is_same_alone(
        self, head: BaseDenseHead, features: Any, outputs: Any, count: int
    ) -> bool:
        """Whether the last image has the same outputs alone; tried once a head."""
        if id(head) in self._tried:
            return True
        self._tried.add(id(head))
        with torch.no_grad():
            alone = head.forward(take(features, count - 1))
        pairs = zip(tensors_of(take(outputs, count - 1)), tensors_of(alone))
        return all(_alike(one, other) for one, other in pairs)


@contextmanager
def known_to(heads: list[SharedHead], i: int, features: Any) -> Iterator[None]:
    """Let all heads know what they make of one image (:meth:`SharedHead.of_image`)."""
    with ExitStack() as stack:
        for head in heads:
            stack.enter_context(head.of_image(i, features))
        yield


def _takes_features_alone(head: Any) -> bool:
    if not isinstance(head, BaseDenseHead):
        return False
    if type(head).forward is nn.Module.forward:  # it asks others
        return False
    parameters = list(inspect.signature(head.forward).parameters.values())
    return len(parameters) == 1 and parameters[0].kind is POSITIONAL


def _has_each_image(outputs: Any, count: int) -> bool:
    parts = list(tensors_of(outputs))
    return all(p is not None and p.dim() > 0 and len(p) == count for p in parts)


def _alike(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two outputs differ by no more than sums in another order do."""
    if one is None or other is None or one.shape != other.shape:
        return False
    if not one.numel():
        return True
    scale = other.abs().max().clamp(min=1e-6)
    return bool((one - other).abs().max() <= SAME * scale)
