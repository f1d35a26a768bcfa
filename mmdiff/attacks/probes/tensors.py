"""Nested features, and how far two are apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

# Relative difference that is rounding, of another algorithm of cuDNN say.
ROUNDING = 1e-5


def flat(features: Any) -> list[Tensor]:
    """Tensors of nested features, in order."""
    if isinstance(features, Tensor):
        return [features]
    if isinstance(features, dict):
        features = features.values()
    if not isinstance(features, Iterable):
        return []
    return [tensor for part in features for tensor in flat(part)]


def relative_gap(first: Tensor, second: Tensor) -> float:
    """Difference of two tensors relative to their size; 1 if one is not finite."""
    first, second = first.double(), second.double()
    size = max(first.norm().item(), second.norm().item())
    gap = (first - second).norm().item()
    if not gap < float('inf'):
        return 1.0
    return gap / size if size else 0.0


def widest_gap(
    first: Sequence[Tensor] | None, second: Sequence[Tensor] | None
) -> float | None:
    """Largest relative difference of tensors in the same places, 0 if it is rounding.

    Returns:
        The difference; ``None`` if the tensors are not of one kind, or there are none.
    """
    if not first or not second or [x.shape for x in first] != [x.shape for x in second]:
        return None
    gap = max(relative_gap(*pair) for pair in zip(first, second))
    return gap if gap > ROUNDING else 0.0


def cosine(first: Tensor, second: Tensor) -> float:
    """Correlation about 0 of two vectors; 0 if one of them is 0 or not finite."""
    size = first.norm() * second.norm()
    if not torch.isfinite(size) or size == 0:
        return 0.0
    return float(first @ second / size)
