"""Packages whose names are imported when they are first used (PEP 562)."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def attach(
    package: str, exports: Mapping[str, str], packages: Sequence[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make the ``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: Name of the package.
        exports: Name: the module below the package that has it.
        packages: Names that are modules below the package themselves.

    Example:
        >>> getter, names = attach('mmdiff', {'Budget': 'attacks.budget'})
        >>> getter('Budget').__name__, names()
        ('Budget', ['Budget'])
    """

    def get(name: str) -> Any:
        if name in exports:
            return getattr(import_module(f'{package}.{exports[name]}'), name)
        if name in packages:
            return import_module(f'{package}.{name}')
        raise AttributeError(f'module {package!r} has no attribute {name!r}')

    def names() -> list[str]:
        return sorted([*exports, *packages])

    return get, names
