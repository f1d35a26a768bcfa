"""What rounding to whole pixel values, as files of 8 bits hold them, does to a row."""

from __future__ import annotations

from collections.abc import Sequence

from .entry import Entry

VISIBLE = 0.005  # smaller differences of the metric are told by the JSON alone
UNDONE = 0.5  # share of an attack's effect, from which rounding undoes it


def differs(entry: Entry) -> bool:
    """Whether the metric after rounding is another one, as far as tables tell."""
    rounded = entry.after_rounding
    return rounded is not None and abs(rounded - entry.value) > VISIBLE


def rounded_mark(entry: Entry) -> str:
    """Mark of a row in tables: ``' (rounded: 0.612)'``, or nothing."""
    return f' (rounded: {entry.after_rounding:.3f})' if differs(entry) else ''


def undone(entry: Entry, clean: Entry) -> float:
    """Share of what an attack took off the metric that rounding gives back."""
    taken = clean.value - entry.value
    if entry.after_rounding is None or taken <= 0:
        return 0.0
    return (entry.after_rounding - entry.value) / taken


def rounding_note(entry: Entry, clean: Entry, within: Sequence[Entry] = ()) -> str:
    """Sentence on a row whose metric rounding changes; empty for all others.

    Args:
        entry: The row.
        clean: The clean row.
        within: All rows of the model: of an upper bound, images may have been left as
            an attack of a smaller budget had them.
    """
    if not differs(entry):
        return ''
    text = (
        f'{entry.metric} {entry.value:.3f} is that of the values of the attack; in '
        'whole pixel values within the budget, as a file of 8 bits holds them, it is '
        f'{entry.after_rounding:.3f}'
    )
    if entry.role == 'worst_case':
        text += ' (with the choice of attacks held)'
    if entry.upper_bound and any(_is_smaller(other, entry) for other in within):
        return (
            f'{text}. Images that a smaller budget had fooled keep its change there, '
            'so that this says nothing of the budget: attack in whole values '
            '(quantize=True), or without skip_fooled.'
        )
    share = undone(entry, clean)
    if share >= UNDONE:
        text += f': rounding undoes {100 * share:.0f} % of the attack'
    return f'{text}.'


def _is_smaller(other: Entry, entry: Entry) -> bool:
    """Whether a row is of an attack within less than the budget of another row."""
    budgets = other.budget, entry.budget
    if other.role != 'attack' or None in budgets or other.budget == entry.budget:
        return False
    return other.budget in entry.budget


def rounding_notes(entries: Sequence[Entry], clean: Entry) -> list[str]:
    """Notes on all rows of a model that rounding changes, each with the row's name."""
    notes = [(entry.name, rounding_note(entry, clean, entries)) for entry in entries]
    return [f'{name}: {note}' for name, note in notes if note]
