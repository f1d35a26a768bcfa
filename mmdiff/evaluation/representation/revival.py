"""Records that JSON held, made records again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


def revive(kind: Any, raw: Any) -> Any:
    """Make a record again of what ``asdict`` and JSON made of it.

    Args:
        kind: Class of the record, or the annotation of a field.
        raw: What was read.

    Raises:
        KeyError, TypeError, ValueError: If it is none.

    Example:
        >>> from mmdiff.evaluation.representation.results import Attacked
        >>> revive(Attacked, {'eps': 2.0, 'score': {'value': 0.5, 'interval': None}})
        Attacked(eps=2.0, score=Estimate(value=0.5, interval=None, method='none'))
    """
    if is_dataclass(kind):
        if not isinstance(raw, Mapping):
            raise TypeError(f'{raw!r} is no {kind}.')
        hints = get_type_hints(kind)
        known = [each.name for each in fields(kind) if each.name in raw]
        return kind(**{name: revive(hints[name], raw[name]) for name in known})
    origin, inner = get_origin(kind), get_args(kind)
    if origin is list:
        return [revive(inner[0], value) for value in raw]
    if origin is tuple:
        return tuple(raw)
    if origin in (Union, UnionType) and raw is not None:
        return revive(inner[0], raw)
    return raw
