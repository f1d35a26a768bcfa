"""What a row is worth to a model that draws: mean, lowest and highest of evaluations.

A model with fresh noise in it answers otherwise in each pass, so one test of it is one
draw. Its row is the mean over N evaluations of the same images, attacked once, each
with recorded seeds; beside it stand the lowest and the highest of the N. The interval
of a row is over draws of images, of that mean: what the model draws is held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from .entry import Entry
    from .record import RunRecord
    from .results import Results

# Of scores, and of boxes beside a part of their coordinates.
ROUNDING, RELATIVE = 1e-3, 1e-4


@dataclass
class Evaluations:
    """Evaluations of one row, in the order of their seeds.

    Args:
        seeds: Seed of each (:func:`mmdiff.engine.loops.seeds.batch_seed` makes that of
            a batch of it).
        values: Main metric of each, 0..1.
        differing: Images on which any answer differs from that of the first one.
        folds: Of a worst case, the evaluations that are measured by one choice of
            attacks, by their numbers; the choice is made on all others.
        chosen: For each of these, the run that counts for each image.

    Example:
        >>> three = Evaluations([0, 1, 2], [0.5, 0.25, 0.75])
        >>> len(three), three.lowest, three.highest
        (3, 0.25, 0.75)
    """

    seeds: list[int]
    values: list[float]
    differing: int = 0
    folds: list[list[int]] = field(default_factory=list)
    chosen: list[list[str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def lowest(self) -> float:
        return min(self.values)

    @property
    def highest(self) -> float:
        return max(self.values)

    @property
    def error(self) -> float:
        """Standard error of their mean, over what the model draws; of one, 0."""
        count = len(self.values)
        return float(np.std(self.values, ddof=1)) / count**0.5 if count > 1 else 0.0

    def to_json(self) -> dict[str, Any]:
        """What ``robustness.json`` says."""
        raw: dict[str, Any] = {
            'seeds': self.seeds,
            'values': self.values,
            'lowest': self.lowest,
            'highest': self.highest,
            'differing': self.differing,
        }
        if self.folds:
            raw.update(folds=self.folds, chosen=self.chosen)
        return raw

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Evaluations:
        """Read what :meth:`to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: If it is damaged.
        """
        seeds, values = map(int, raw['seeds']), map(float, raw['values'])
        read = cls(list(seeds), list(values), int(raw['differing']))
        if len(read.seeds) != len(read.values) or not read.values:
            raise ValueError(
                f'{len(read.values)} evaluations have {len(read.seeds)} seeds'
            )
        read.folds = [[int(k) for k in fold] for fold in raw.get('folds', ())]
        read.chosen = [[str(run) for run in pick] for pick in raw.get('chosen', ())]
        return read


def mean(values: Sequence[Any]) -> np.ndarray:
    """Mean over evaluations, (...), of equal values exactly these.

    Args:
        values: Numbers or arrays of one shape, one for each evaluation.
    """
    stack = np.stack([np.asarray(value, float) for value in values])
    # The mean of three times 0.1 is above 0.1, by rounding.
    return np.clip(stack.mean(0), stack.min(0), stack.max(0))


def mean_of_known(values: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over the evaluations that know a value, (...); NaN where none does."""
    known = [value[None] for value in values]
    stack = np.ma.masked_invalid(np.concatenate(known))
    means = np.ma.clip(stack.mean(0), stack.min(0), stack.max(0))
    return np.ma.filled(means.astype(float), np.nan)


def mean_by_name(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each of several numbers over evaluations."""
    return {name: float(mean([one[name] for one in values])) for name in values[0]}


def count_changing(record: RunRecord, differ: Callable[[Any, Any], bool]) -> int:
    """Images on which any evaluation differs from the first one.

    Args:
        record: The evaluations.
        differ: Whether scores of two predictions differ by more than rounding
            (:meth:`mmdiff.evaluation.scoring.Scorer.differ`).
    """
    count = 0
    for answers in zip(*(one.predictions for one in record.evaluations)):
        first, *others = answers
        count += any(_changes(first, other, differ) for other in others)
    return count


def _changes(
    first: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
    differ: Callable[[Any, Any], bool],
) -> bool:
    """Whether an answer is another one, boxes and classes included."""
    pairs = [(value, other[name]) for name, value in first.items()]
    if all(one.shape == two.shape and bool((one == two).all()) for one, two in pairs):
        return False
    if differ(first, other):
        return True
    # What differs by rounding alone is the same; another number of boxes is not.
    for one, two in pairs:
        if one.shape != two.shape:
            return True
        if bool(((one - two).abs() > ROUNDING + RELATIVE * one.abs()).any()):
            return True
    return False


def answer_alike(results: Results) -> int:
    """Evaluations in which a model answers the same on all rows; 0 if it does not."""
    rows = [entry for entry in results.entries if entry.role != 'worst_case']
    known = [row.evaluations for row in rows if row.evaluations is not None]
    if len(known) < len(rows) or any(one.differing for one in known):
        return 0
    return len(known[0])


def describe_evaluations(results: Results) -> list[str]:
    """Say in sentences what evaluations were made, and what they show."""
    clean, count = results.clean.evaluations, answer_alike(results)
    if count and results.complete:
        return [
            f'The model answers the same in all {count} evaluations: it draws nothing, '
            'and one evaluation is enough.'
        ]
    if clean is not None:
        seeds = ', '.join(map(str, clean.seeds))
        return [
            f'Each value is the mean of {len(clean)} evaluations of the same images '
            f'(seeds {seeds}), the lowest and the highest of them behind it; a worst '
            'case is measured in evaluations on which its attacks were not chosen.'
        ]
    sanity = results.sanity
    if sanity is not None and sanity.clean_runs_differ:
        return [
            f'Two clean runs differ on {sanity.clean_runs_differ} of {sanity.images} '
            'images: the model draws, and each value is of one draw. With '
            'evaluations=8 (--evaluations 8) it is the mean of eight.'
        ]
    return []


def range_of(entry: Entry) -> str:
    """Lowest and highest evaluation after a value; nothing where all are equal."""
    several = entry.evaluations
    if several is None or several.lowest == several.highest:
        return ''
    return f' ({several.lowest:.3f} to {several.highest:.3f} in {len(several)})'
