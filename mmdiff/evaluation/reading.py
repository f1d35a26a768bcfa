"""Read numbers that strict JSON has: ``null`` is one that could not be had."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from numbers import Real
from typing import Any


def known(kind: type, raw: Mapping[str, Any]) -> Any:
    """Build a dataclass of those of its fields that there are."""
    return kind(**{f.name: raw[f.name] for f in fields(kind) if f.name in raw})


def number(raw: Any) -> float:
    """Read a number; ``null`` is NaN.

    Example:
        >>> number(0.5), number(None)
        (0.5, nan)
    """
    return math.nan if raw is None else float(raw)


def ends(raw: Sequence[Any] | None) -> tuple[float, float] | None:
    """Read the ends of an interval; ``None`` if there is none.

    Raises:
        TypeError, ValueError: If they are not two numbers in order.
    """
    if raw is None:
        return None
    low, high = map(float, raw)
    if not low <= high:
        raise ValueError(f'an interval goes from {low} to {high}')
    return low, high


def numbers(raw: Mapping[str, Any]) -> dict[str, float]:
    """Read numbers by name; ``null`` is NaN, as of a class without objects.

    Raises:
        ValueError: For what is neither a finite number nor ``null``.
    """
    for name, value in raw.items():
        if value is not None and not (isinstance(value, Real) and math.isfinite(value)):
            raise ValueError(f'{name} is {value!r}, not a number')
    return {k: math.nan if v is None else v for k, v in raw.items()}
