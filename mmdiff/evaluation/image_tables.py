"""What a set's main metric is made of, image by image, without a model or an evaluator.

A table gives the metric of any selection of its images, each taken any number of times:
that is all that resampling needs. Average precision is taken as mmdet's ``eval_map``
and pycocotools take it, from detections that are already matched to objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .evaluations import mean

SHARED = ('objects', 'points')  # arrays that are the same in every row
TRUE, FALSE = 1, -1  # outcomes of a detection; 0: it counts as neither


class ImageTable(Protocol):
    """What the main metric over images is made of."""

    def resampled(self, weights: np.ndarray) -> np.ndarray:
        """Metric of several selections of images.

        Args:
            weights: How often each selection has each image, (B, N).

        Returns:
            Values, (B,); NaN where a selection shows nothing to measure.
        """

    def arrays(self) -> dict[str, np.ndarray]:
        """Arrays by name, from which :func:`table_of` makes the same table."""


def value_of(table: ImageTable, num_images: int) -> float:
    """Metric of all images, each once."""
    return float(table.resampled(np.ones((1, num_images)))[0])


@dataclass
class MeanTable:
    """A metric that is the mean over images, like accuracy.

    Args:
        values: What each image is worth, (N,).

    Example:
        >>> value_of(MeanTable(np.array([1.0, 0.0])), 2)
        0.5
    """

    values: np.ndarray

    def resampled(self, weights: np.ndarray) -> np.ndarray:
        return weights @ self.values / weights.sum(1)

    def arrays(self) -> dict[str, np.ndarray]:
        return {'values': self.values}


@dataclass(frozen=True)
class ApRule:
    """How a metric counts the detections of a test set.

    Args:
        objects: Objects that count, by image and class, (N, C).
        place: Place of each image in the order in which the metric takes them, (N,):
            of equal scores the first counts first.
        points: Recalls at which precision is read; ``None``: the area under the curve.
        stable: Whether the metric's sorting keeps the order of equal scores.
    """

    objects: np.ndarray
    place: np.ndarray
    points: np.ndarray | None
    stable: bool

    @property
    def num_images(self) -> int:
        return len(self.objects)

    def steps(self, objects: int) -> np.ndarray:
        """Weight of the precision at each of the objects of a class, (objects,)."""
        recall = np.arange(1, objects + 1) / objects
        return np.diff(_reached(recall, self.points), prepend=0)


@dataclass
class Matches:
    """Detections of one run, matched to objects.

    Args:
        images: Number of the image of each detection, (D,).
        labels: Class of each, (D,).
        scores: Score of each, (D,).
        outcomes: :data:`TRUE`, :data:`FALSE` or 0 at each threshold of IoU, (T, D).
    """

    images: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    outcomes: np.ndarray

    def take(self, chosen: np.ndarray) -> Matches:
        """Take some of the detections, by numbers or as a mask."""
        return Matches(
            self.images[chosen],
            self.labels[chosen],
            self.scores[chosen],
            self.outcomes[:, chosen],
        )

    @classmethod
    def join(cls, parts: Sequence[Matches]) -> Matches:
        """Put detections together."""
        return cls(
            np.concatenate([part.images for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.outcomes for part in parts], 1),
        )

    @classmethod
    def choose(cls, runs: Sequence[Matches], pick: np.ndarray) -> Matches:
        """Take of image ``i`` what run ``pick[i]`` detected."""
        return cls.join([r.take(pick[r.images] == k) for k, r in enumerate(runs)])

    def ranked(self, rule: ApRule) -> Matches:
        """Sort by class and then as the metric does, the highest score first."""
        ordered = self.take(np.lexsort((rule.place[self.images], self.labels)))
        kind: Any = 'stable' if rule.stable else 'quicksort'
        order = [
            part.start + np.argsort(-ordered.scores[part], kind=kind)
            for _, part in segments(ordered.labels)
        ]
        return ordered.take(np.concatenate(order)) if order else ordered


def segments(numbers: np.ndarray) -> Iterator[tuple[int, slice]]:
    """Each number of a sorted array, and where it stands.

    Example:
        >>> list(segments(np.array([3, 3, 7])))
        [(3, slice(0, 2, None)), (7, slice(2, 3, None))]
    """
    values, starts = np.unique(numbers, return_index=True)
    for value, start, stop in zip(values, starts, [*starts[1:], len(numbers)]):
        yield int(value), slice(int(start), int(stop))


@dataclass
class ApTable:
    """Ranked detections of a set: enough for the mAP of any selection of its images.

    What cannot change the metric is left out: classes without objects, and detections
    below the last true one of their class.

    Args:
        objects: Objects that count, by image and class, (N, C).
        points: See :class:`ApRule`.
        images: Number of the image of each detection, (D,).
        labels: Class of each, (D,), sorted; within a class the highest score is first.
        outcomes: See :class:`Matches`, (T, D).
    """

    objects: np.ndarray
    points: np.ndarray | None
    images: np.ndarray
    labels: np.ndarray
    outcomes: np.ndarray

    @classmethod
    def of(cls, rule: ApRule, matches: Matches) -> ApTable:
        """Rank matched detections."""
        ranked = matches.ranked(rule)
        kept: list[np.ndarray] = [np.zeros(0, int)]
        for label, part in segments(ranked.labels):
            hits = np.flatnonzero((ranked.outcomes[:, part] == TRUE).any(0))
            if rule.objects[:, label].any() and len(hits):
                kept.append(part.start + np.arange(hits[-1] + 1))
        ranked = ranked.take(np.concatenate(kept))
        return cls(
            rule.objects, rule.points, ranked.images, ranked.labels, ranked.outcomes
        )

    def resampled(self, weights: np.ndarray) -> np.ndarray:
        weights = np.asarray(weights, float)
        objects = weights @ self.objects  # (B, C)
        total = np.zeros(len(weights))
        for label, part in segments(self.labels):
            for outcomes in self.outcomes[:, part]:
                total += self._class_ap(
                    weights, objects[:, label], self.images[part], outcomes
                )
        classes = (objects > 0).sum(1) * len(self.outcomes)
        return np.divide(
            total, classes, out=np.full(len(weights), np.nan), where=classes > 0
        )

    def _class_ap(
        self,
        weights: np.ndarray,
        objects: np.ndarray,
        images: np.ndarray,
        outcomes: np.ndarray,
    ) -> np.ndarray:
        """AP of one class at one threshold, (B,); 0 without objects.

        Precision rises at true detections alone, so the curve is known from these and
        from how many false ones come before each. An image that is taken several times
        has each of its detections as often; where it is not taken, a true detection
        adds no recall, and its precision is no higher than that of the one before.
        """
        hits = np.flatnonzero(outcomes == TRUE)
        if len(hits) == 0:
            return np.zeros(len(weights))
        misses = np.flatnonzero(outcomes == FALSE)
        before = np.searchsorted(hits, misses)  # the true one that follows
        misses, before = misses[before < len(hits)], before[before < len(hits)]
        counts = np.zeros((weights.shape[1], len(hits)))
        np.add.at(counts, (images[misses], before), 1)
        false = np.cumsum(weights @ counts, axis=1)
        true = np.cumsum(weights[:, images[hits]], axis=1)
        precision = true / np.maximum(true + false, 1e-12)
        recall = true / np.maximum(objects, 1e-12)[:, None]
        reached = _reached(recall, self.points)
        steps = np.diff(reached, axis=1, prepend=0)
        return (highest_to_come(precision) * steps).sum(1)

    def arrays(self) -> dict[str, np.ndarray]:
        arrays = {
            'objects': self.objects,
            'images': self.images,
            'labels': self.labels,
            'outcomes': self.outcomes,
        }
        if self.points is not None:
            arrays['points'] = self.points
        return arrays


def _reached(recall: np.ndarray, points: np.ndarray | None) -> np.ndarray:
    """Share of the recall axis below a recall: itself, or the share of the points."""
    if points is None:
        return recall
    return np.searchsorted(points, recall, side='right') / len(points)


def highest_to_come(precision: np.ndarray) -> np.ndarray:
    """Highest precision at this or any higher recall, (..., K)."""
    return np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]


@dataclass
class EvaluationsTable:
    """The mean of a metric over evaluations of the same images, by a model that draws.

    Args:
        tables: Table of each evaluation, all of one kind and one ground truth.

    Example:
        >>> single = [MeanTable(np.array([1.0, 0.0])), MeanTable(np.array([1.0, 1.0]))]
        >>> value_of(EvaluationsTable(single), 2)
        0.75
    """

    tables: Sequence[ImageTable]

    def resampled(self, weights: np.ndarray) -> np.ndarray:
        return mean([table.resampled(weights) for table in self.tables])

    def arrays(self) -> dict[str, np.ndarray]:
        arrays = {}
        for number, table in enumerate(self.tables):
            for name, array in table.arrays().items():
                arrays[name if name in SHARED else f'{number}.{name}'] = array
        return arrays


def objects_of(table: ImageTable) -> np.ndarray | None:
    """Objects that count, by image and class; ``None`` of a metric without objects."""
    if isinstance(table, EvaluationsTable):
        return objects_of(table.tables[0])
    return table.objects if isinstance(table, ApTable) else None


def table_of(arrays: dict[str, np.ndarray]) -> ImageTable:
    """Make the table that :meth:`ImageTable.arrays` is of.

    Raises:
        KeyError: If an array is missing.
    """
    parts: dict[int, dict[str, np.ndarray]] = {}
    shared = {name: array for name, array in arrays.items() if '.' not in name}
    for name, array in arrays.items():
        number, _, rest = name.partition('.')
        if rest:
            parts.setdefault(int(number), dict(shared))[rest] = array
    if parts:
        return EvaluationsTable([table_of(parts[number]) for number in sorted(parts)])
    if 'values' in arrays:
        return MeanTable(arrays['values'])
    return ApTable(
        arrays['objects'],
        arrays.get('points'),
        arrays['images'],
        arrays['labels'],
        arrays['outcomes'],
    )
