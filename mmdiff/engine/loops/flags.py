"""Flags of a row, and of rows beside each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmdiff.attacks.objectives import objective_name
from mmdiff.attacks.probes import Probes
from mmdiff.evaluation.checks import (
    check_entry,
    check_members,
    check_probes,
    check_rise,
    check_rows,
    check_search,
    shows_something,
)
from mmdiff.evaluation.entry import Entry, Flag
from mmdiff.evaluation.results import Results

from .robust_plan import Step


def check_step(step: Step, clean: Entry, probes: Probes) -> list[Flag]:
    """Flags of the row of an attack, by what it did and what was probed."""
    flags = check_entry(step.entry, clean)
    if not (step.sees_gradients and step.attack.eps):
        return flags
    # What follows from a flag is no second one.
    flags = flags or check_search(step.entry)
    flags = flags or check_rise(step.entry, probes)
    probed = check_probes(probes, objective_name(step.attack.objective))
    # A gradient that could not be checked overstates nothing where nothing is left.
    if _leaves_nothing(step.entry, clean):
        probed = [flag for flag in probed if flag.code != 'objective_constant']
    return [*probed, *flags]


def _leaves_nothing(attacked: Entry, clean: Entry) -> bool:
    left, before = np.array(attacked.image_scores), np.array(clean.image_scores)
    return len(left) > 0 and not shows_something(left, before)


def compare_rows(results: Results, steps: Sequence[Step], score_name: str) -> None:
    """Flag rows that contradict others of their budget."""
    for budget in dict.fromkeys(step.entry.budget for step in steps):
        rows = [step.entry for step in steps if step.entry.budget == budget]
        check_rows(rows, results.clean, score_name)
    for entry in results.entries:
        if entry.role == 'worst_case':
            entry.flags += check_members(entry, results.entries)
