"""Does a model draw, and do seeds fix what it draws?"""

from __future__ import annotations

from dataclasses import dataclass

from mmdiff.evaluation.checks import (
    check_randomness,
    check_repeated,
    count_differing,
)
from mmdiff.evaluation.entry import Entry, Flag
from mmdiff.evaluation.record import RunRecord

from .cached_runs import CachedRuns
from .robust_plan import RobustPlan


@dataclass
class Randomness:
    """What clean runs beside the first one show.

    Args:
        differing: Images on which two clean runs differ.
        repeated: Images on which two clean runs with equal seeds differ.
        images: Images of these runs.
        evaluations: Evaluations of each row.
    """

    differing: int
    repeated: int
    images: int
    evaluations: int

    def flags(self, entry: Entry) -> list[Flag]:
        """Flags of a row for what it owes to a draw."""
        if entry.role == 'clean':
            return check_repeated(self.repeated, self.images)
        return check_randomness(entry, self.differing, self.images, self.evaluations)


def watch_randomness(
    runs: CachedRuns, plan: RobustPlan, clean: RunRecord
) -> Randomness:
    """Run the clean images again, and with the same seeds if seeds are recorded."""
    again = count_differing(clean, runs.run(plan.again), runs.scorer.differ)
    repeated = 0
    if plan.repeat is not None:
        repeated = count_differing(clean, runs.run(plan.repeat), runs.scorer.differ)
    return Randomness(again, repeated, plan.num_checked, plan.evaluations)
