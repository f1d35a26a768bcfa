"""What a search measured: cells, their intervals, and the cell to take."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmdiff.evaluation.image_tables import MeanTable
from mmdiff.evaluation.uncertainty import Bootstrap, Interval
from mmdiff.utils.files import write_json

from .grid import Cell

SCHEMA = 'mmdiff-tap-search/1'
# Share of gradients without a direction, from which an attacked score is doubtful.
HIDDEN = 0.1


@dataclass
class CellResult:
    """One cell, image by image.

    Args:
        cell: The cell.
        channels: Channels that the probe sees.
        clean: Score of each held-out image, (N,), 0 to 1.
        attacked: Worst score of each within a budget, by eps, ascending.
        penalty: Penalty of the probe's weights.
        seconds: Time that the cell took, features included.
        gradients: Gradients of the attack, counted per image.
        zero_gradients: Those that were all zero.
        nonfinite_gradients: Those with NaN or infinity.
    """

    cell: Cell
    channels: int
    clean: np.ndarray
    attacked: dict[float, np.ndarray]
    penalty: float
    seconds: float
    gradients: int = 0
    zero_gradients: int = 0
    nonfinite_gradients: int = 0

    @property
    def means(self) -> np.ndarray:
        """Mean of each image's score, clean and at every budget, (N,)."""
        return np.mean([self.clean, *self.attacked.values()], 0)

    @property
    def score(self) -> float:
        """What cells are ranked by: the mean of clean and every budget."""
        return float(self.means.mean())

    @property
    def hides_gradients(self) -> bool:
        """Whether so many gradients lead nowhere that the attack says little."""
        dead = self.zero_gradients + self.nonfinite_gradients
        return dead > HIDDEN * max(self.gradients, 1)

    def save(self, path: Path) -> None:
        """Write a file, whole or not at all."""
        raw = {**asdict(self), 'clean': self.clean.tolist()}
        raw['attacked'] = [[eps, v.tolist()] for eps, v in self.attacked.items()]
        write_json(path, raw)

    @classmethod
    def load(cls, path: Path) -> CellResult | None:
        """Read a file; ``None`` if it is not there, or damaged."""
        try:
            raw = json.loads(path.read_text(encoding='utf-8'))
            cell = raw.pop('cell')
            raw['cell'] = Cell(tuple(cell['taps']), cell['time'], cell['num_noise'])
            raw['clean'] = np.array(raw['clean'], float)
            raw['attacked'] = {e: np.array(v, float) for e, v in raw['attacked']}
            return cls(**raw)
        except (FileNotFoundError, KeyError, TypeError, ValueError):
            return None


@dataclass
class Measured:
    """A score with its interval.

    Args:
        value: The score, 0 to 1.
        interval: 95 % interval over images.
    """

    value: float
    interval: Interval | None

    def __str__(self) -> str:
        if self.interval is None:
            return f'{self.value:.3f}'
        return f'{self.value:.3f} [{self.interval[0]:.3f}, {self.interval[1]:.3f}]'


@dataclass
class SearchResults:
    """All that a search knows.

    Args:
        about: Where it comes from: config, prior, images, settings, versions.
        unit: ``'timestep'`` or ``'sigma'``.
        metric: Name of the score.
        eps: Budgets, ascending.
        cells: Cells that are measured, in the order of the grid.
        missing: Cells that are not.
        bootstrap: How intervals are made.
    """

    about: dict[str, Any]
    unit: str
    metric: str
    eps: tuple[float, ...]
    cells: list[CellResult]
    missing: list[Cell]
    bootstrap: Bootstrap = field(default_factory=Bootstrap)

    @property
    def ranked(self) -> list[CellResult]:
        """Cells, the best first; of equal ones the first of the grid."""
        return sorted(self.cells, key=lambda result: -result.score)

    @property
    def best(self) -> CellResult:
        """The cell to take: the highest mean of clean and every budget."""
        return self.ranked[0]

    @property
    def alike(self) -> list[CellResult]:
        """Cells that these images do not tell from the best one, the best left out.

        The 95 % interval of the difference, on the same draws of images, holds 0.
        """
        best, same = self.best, []
        for result in self.ranked[1:]:
            table = MeanTable(best.means - result.means)
            draws = self.bootstrap.values(table, len(best.means))
            ends = self.bootstrap.paired_interval(draws)
            if ends is not None and ends[0] <= 0:
                same.append(result)
        return same

    def measured(self, values: np.ndarray) -> Measured:
        """Mean of scores with its interval."""
        table, mean = MeanTable(values), float(values.mean())
        draws = self.bootstrap.values(table, len(values))
        if mean in (0, 1):  # all draws are alike, and say nothing
            return Measured(mean, self.bootstrap.interval_of_alike(mean, len(values)))
        return Measured(mean, self.bootstrap.interval(draws, mean))

    def to_json(self) -> dict[str, Any]:
        """All of it but the scores of single images."""
        return {
            'schema': SCHEMA,
            **self.about,
            'metric': self.metric,
            'ranked_by': 'mean of clean and every budget',
            'intervals': asdict(self.bootstrap),
            'complete': not self.missing,
            'best': self._name(self.best.cell) if self.cells else None,
            'alike': [self._name(r.cell) for r in self.alike] if self.cells else [],
            'cells': [self._cell(result) for result in self.cells],
            'missing': [self._name(cell) for cell in self.missing],
        }

    def _name(self, cell: Cell) -> dict[str, Any]:
        return {
            'taps': list(cell.taps),
            self.unit: cell.time,
            'num_noise': cell.num_noise,
        }

    def _cell(self, result: CellResult) -> dict[str, Any]:
        attacked = [
            {'eps': eps, **asdict(self.measured(values))}
            for eps, values in result.attacked.items()
        ]
        return {
            **self._name(result.cell),
            'channels': result.channels,
            'clean': asdict(self.measured(result.clean)),
            'attacked': attacked,
            'mean': asdict(self.measured(result.means)),
            'penalty': result.penalty,
            'seconds': round(result.seconds, 2),
            'gradients': result.gradients,
            'zero_gradients': result.zero_gradients,
            'nonfinite_gradients': result.nonfinite_gradients,
            'hides_gradients': result.hides_gradients,
        }
