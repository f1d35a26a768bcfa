"""How much of all runs is done, and what a part of it took."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from resource import RUSAGE_SELF, getrusage

import torch

from .robust_plan import Run


@dataclass
class Progress:
    """How much of all runs is done, for the ETA in the log.

    Args:
        runs: Runs to come.
        left: Work that is left to this rank, in passes.
        done: Work done by this process.
        seconds: Time that this took.
    """

    runs: list[Run]
    left: float
    done: float = 0.0
    seconds: float = 0.0

    def count(self, work: float, seconds: float) -> None:
        """Note that some work is done."""
        self.left -= work
        self.done += work
        self.seconds += seconds

    @property
    def eta(self) -> timedelta:
        """Time that is left."""
        return timedelta(seconds=round(self.left * self.seconds / self.done))


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Give a list that holds, at the end, the most memory held, in bytes.

    On a CPU it is that of the process so far: there is none of the block alone.
    """
    peak = [0]
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    yield peak
    if torch.cuda.is_available():
        peak[0] = torch.cuda.max_memory_allocated()
    else:
        peak[0] = getrusage(RUSAGE_SELF).ru_maxrss * 1024
