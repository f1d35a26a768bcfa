"""Choose a run for each image so that the mAP over the set is as low as can be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .image_tables import (
    FALSE,
    TRUE,
    ApRule,
    ApTable,
    Matches,
    highest_to_come,
    segments,
    value_of,
)

Part = tuple[np.ndarray, np.ndarray]  # sorted ranks of true and of false detections
PASSES = 50  # far more than are ever needed


def lowest_map(
    rule: ApRule, runs: Sequence[Matches], starts: Sequence[np.ndarray]
) -> np.ndarray:
    """Choose a run for each image, image by image, as long as the mAP falls.

    Coordinate descent: it ends where no other run of any one image would lower the
    mAP, which need not be the lowest of all choices.

    Args:
        rule: How the metric counts.
        runs: Matched detections of each run, (R).
        starts: Choices to begin at the best of, numbers of runs, (N,).

    Returns:
        Number of the run for each image, (N,).
    """
    values = []
    for start in starts:
        table = ApTable.of(rule, Matches.choose(runs, np.asarray(start)))
        values.append(value_of(table, rule.num_images))
    descent = Descent(rule, runs, np.array(starts[int(np.argmin(values))], int))
    for _ in range(PASSES):
        if not descent.run_pass():
            break
    return descent.pick


class Descent:
    """A choice of runs, and the AP of each class and threshold under it.

    Detections of all runs are ranked together once, class by class. Then a curve of
    precision is known from the sorted ranks of true and of false detections, and a
    change of one image touches only those of its classes.

    Args:
        rule: How the metric counts.
        runs: Matched detections of each run.
        pick: Number of the run for each image, (N,); changed in place.
    """

    def __init__(self, rule: ApRule, runs: Sequence[Matches], pick: np.ndarray) -> None:
        self.pick = pick
        self.num_runs = len(runs)
        counts = enumerate(rule.objects.sum(0))
        self.steps = {label: rule.steps(count) for label, count in counts if count}
        self._rank(rule, runs)
        parts: dict[tuple[int, int], list[Part]] = {}
        for image, run in enumerate(pick):
            for curve, part in self.parts.get((int(run), image), {}).items():
                parts.setdefault(curve, []).append(part)
        self.curves = {curve: _merge(of) for curve, of in parts.items()}
        self.aps = {c: self._ap(c, *self._curve(c)) for c in self.curves}

    def _rank(self, rule: ApRule, runs: Sequence[Matches]) -> None:
        """Split the ranks of all detections by run, image and curve."""
        sizes = [len(run.images) for run in runs]
        number = np.repeat(np.arange(len(runs)), sizes)
        pool = Matches.join(runs)
        counted = rule.objects.sum(0)[pool.labels] > 0
        pool, number = pool.take(counted), number[counted]
        order = np.lexsort((rule.place[pool.images], -pool.scores, pool.labels))
        pool, number = pool.take(order), number[order]
        # Ranks are those of the pool: within a run and image they stay sorted.
        cells = np.lexsort((pool.labels, pool.images, number))
        key = number[cells] * rule.num_images + pool.images[cells]
        self.parts: dict[tuple[int, int], dict[tuple[int, int], Part]] = {}
        for value, cell in segments(key):
            ranks = cells[cell]
            parts = self.parts[divmod(value, rule.num_images)] = {}
            for label, part in segments(pool.labels[ranks]):
                for threshold, outcomes in enumerate(pool.outcomes[:, ranks[part]]):
                    parts[label, threshold] = (
                        ranks[part][outcomes == TRUE],
                        ranks[part][outcomes == FALSE],
                    )

    def _curve(self, curve: tuple[int, int]) -> Part:
        return self.curves.get(curve, NOTHING)

    def _ap(self, curve: tuple[int, int], true: np.ndarray, false: np.ndarray) -> float:
        return self._ap_of(curve[0], true, np.searchsorted(false, true))

    def _ap_of(self, label: int, true: np.ndarray, before: np.ndarray) -> float:
        """AP from sorted true detections and the number of false ones before each."""
        if len(true) == 0:
            return 0.0
        count = np.arange(1, len(true) + 1)
        precision = highest_to_come(count / (count + before))
        return float(precision @ self.steps[label][: len(true)])

    def run_pass(self) -> bool:
        """Try all runs of every image; return whether anything changed."""
        changed = False
        for image in range(len(self.pick)):
            gains = [self._change(image, run) for run in range(self.num_runs)]
            best = int(np.argmin(gains))
            if gains[best] < -1e-9:
                self._accept(image, best)
                changed = True
        return changed

    def _change(self, image: int, run: int) -> float:
        """Change of the summed APs if an image were as another run left it."""
        now = int(self.pick[image])
        if run == now:
            return 0.0
        out = self.parts.get((now, image), {})
        into = self.parts.get((run, image), {})
        change = 0.0
        for curve in {**out, **into}:
            (gone, gone_false) = out.get(curve, NOTHING)
            (come, come_false) = into.get(curve, NOTHING)
            all_true, all_false = self._curve(curve)
            true = _exchange(all_true, gone, come)
            if len(true):
                before = np.searchsorted(all_false, true)
                if len(gone_false):
                    before = before - np.searchsorted(gone_false, true)
                if len(come_false):
                    before = before + np.searchsorted(come_false, true)
                change += self._ap_of(curve[0], true, before)
            change -= self.aps.get(curve, 0.0)
        return change

    def _accept(self, image: int, run: int) -> None:
        out = self.parts.get((int(self.pick[image]), image), {})
        into = self.parts.get((run, image), {})
        for curve in {**out, **into}:
            gone, come = out.get(curve, NOTHING), into.get(curve, NOTHING)
            true, false = map(_exchange, self._curve(curve), gone, come)
            self.curves[curve] = true, false
            self.aps[curve] = self._ap(curve, true, false)
        self.pick[image] = run


NOTHING: Part = (np.zeros(0, int), np.zeros(0, int))


def _merge(parts: Sequence[Part]) -> Part:
    true, false = (np.sort(np.concatenate(kind)) for kind in zip(*parts))
    return true, false


def _exchange(ranks: np.ndarray, gone: np.ndarray, come: np.ndarray) -> np.ndarray:
    """Sorted ranks without some of them, and with others."""
    if len(gone):
        ranks = np.delete(ranks, np.searchsorted(ranks, gone))
    if len(come):
        ranks = np.insert(ranks, np.searchsorted(ranks, come), come)
    return ranks
