"""Shields: does an attack see through the one that it is up against?"""

from __future__ import annotations

from ..entry import Entry, Flag
from ..shield import Shield
from .codes import flag
from .rows import is_blind


def name_gradient(entry: Entry, shield: Shield | None) -> list[Flag]:
    """Name in a row which gradient its attack follows through a shield.

    Args:
        entry: Row of an attack. One that sees no gradient of the model stays as it is.
        shield: What stands in front of the model; ``None`` if nothing does.

    Returns:
        A flag if the gradient is another one than the shield's.
    """
    if shield is None or is_blind(entry):
        return []
    entry.settings['gradient'] = shield.gradient
    if not shield.instead:
        return []
    text = (
        f'{entry.name} follows the gradient of {shield.instead} in the place of that '
        f'of {shield.kind} (gradient={shield.gradient!r})'
    )
    return [flag('gradient_replaced', text)]
