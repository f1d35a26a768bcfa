"""Can a robustness figure be believed? Checks of every attack, in plain words.

A check adds a :class:`~mmdiff.evaluation.entry.Flag`. A new one needs a code with its
explanation in :data:`CODES` and the lines that raise it; pages and tables show it by
themselves.
"""

from .budgets import check_search
from .codes import CODES, flag, slack
from .controls import check_controls, shows_something
from .probes import check_probes, check_rise
from .rows import (
    check_clean,
    check_entry,
    check_members,
    check_randomness,
    check_repeated,
    check_rows,
    check_scores,
    count_differing,
)
from .shields import name_gradient

__all__ = [
    'CODES',
    'check_clean',
    'check_controls',
    'check_entry',
    'check_members',
    'check_probes',
    'check_randomness',
    'check_repeated',
    'check_rise',
    'check_rows',
    'check_scores',
    'check_search',
    'count_differing',
    'flag',
    'name_gradient',
    'shows_something',
    'slack',
]
