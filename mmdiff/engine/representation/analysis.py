"""The analysis: measure by measure, each kept on disk, within a time."""

from __future__ import annotations

import itertools
import json
import shutil
import time as clock
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.registry import DefaultScope
from torch import nn

from mmdiff.attacks import GradientBlocked
from mmdiff.evaluation.representation.dimension import check_sklearn
from mmdiff.evaluation.representation.figures import draw_figures
from mmdiff.evaluation.representation.pages import to_markdown
from mmdiff.evaluation.representation.results import (
    CKA,
    KINDS,
    SCHEMA,
    AnalysisResults,
    Measured,
    Refused,
    Similarity,
)
from mmdiff.utils.digests import digest_json
from mmdiff.utils.files import strict_json, write_json
from mmdiff.utils.modules import device_of
from mmdiff.version import __version__

from ..loops.origin import versions
from ..tap_search.board import Board
from .bench import Bench
from .layers import POOLING, look_at
from .loading import build_task, images_of_all, load_images
from .measures import DEFINITIONS, MEASURE, measure_similarity
from .settings import MEASURES, AnalysisSettings, check_measures, check_minutes
from .store import ArrayStore, ResultStore
from .subjects import (
    ModelRequest,
    PriorRequest,
    Subject,
    build_subjects,
    task_of,
)

FILE = 'representation.json'
Pair = tuple[Subject, nn.Module]


class RepresentationAnalysis:
    """Measure what layers of a model, or taps of a prior, make of images.

    Features are pooled over positions. Probes, components and autoencoders are fitted
    on images of the training set; everything is measured on images of the test set. The
    folder gets ``representation.json``, ``representation.md`` and a figure for each
    measure; what is done is kept there, too, so an analysis goes on where it was
    killed, and may be given more layers and measures.

    Args:
        request: The model or prior.
        out: Folder of the analysis.
        compare: Another model or prior, measured as well, on the same images.
        measures: Names of measures (:data:`MEASURES`).
        settings: What all representations have in common.
        minutes: No measure is started after that; ``None``: no limit.
        fresh: Forget another analysis in the folder.
        board: Shows progress; ``None``: nothing is shown.

    Raises:
        ValueError: For a model, layer, data set or folder that cannot be analysed.
        FileNotFoundError: If data, a checkpoint or a prior are missing.
    """

    def __init__(
        self,
        request: ModelRequest | PriorRequest,
        out: str | Path,
        compare: ModelRequest | PriorRequest | None = None,
        measures: Sequence[str] = MEASURES,
        settings: AnalysisSettings | None = None,
        minutes: float | None = None,
        fresh: bool = False,
        board: Board | None = None,
    ) -> None:
        self.measures = check_measures(tuple(measures))
        check_minutes(minutes)
        self.deadline = None if minutes is None else clock.monotonic() + 60 * minutes
        if {'sparse', 'dimension'} & {*self.measures}:
            check_sklearn()
        self.out, self.board = Path(out), board or Board()
        task = task_of(request.cfg)
        self.settings = (settings or AnalysisSettings()).for_task(task)
        requests = [request] if compare is None else [request, compare]
        images = images_of_all(requests, self.settings)
        self.task = build_task(task, len(images[0].classes), self.settings.stride)
        self.subjects = build_subjects(requests, images, self.settings.seed)
        self._loaded = {
            id(each): load_images(each, self.task, self.settings)
            for each in self.subjects
        }
        self._widths = {id(each): self._look(each) for each in self.subjects}
        self._check_out(fresh)

    def _look(self, subject: Subject) -> list[int]:
        """Widths of all layers; what cannot be looked at is refused now."""
        part = self._loaded[id(subject)].measured[0]
        bench = self._bench((subject, subject.layers[0]))
        with DefaultScope.overwrite_default_scope(subject.scope):
            return look_at(subject.layers, bench.inputs(part))

    def _bench(self, pair: Pair) -> Bench:
        subject, layer = pair
        return Bench(
            subject,
            layer,
            self.task,
            self._loaded[id(subject)],
            self.settings,
            ArrayStore(self.out / 'features'),
            self.board.track,
        )

    @property
    def identity(self) -> str:
        """Name of all that the measures of the first model have in common."""
        first = self.subjects[0]
        return digest_json(
            [
                [SCHEMA, __version__, self.task.metric, first.identity],
                [first.images.digest(), self.settings.identity()],
                device_of(first.layers[0]).type,
            ]
        )

    def _check_out(self, fresh: bool) -> None:
        """Complain about a folder of another analysis, or forget it.

        Raises:
            ValueError: If there is one.
        """
        file = self.out / FILE
        if fresh:
            for name in ('parts', 'features'):
                shutil.rmtree(self.out / name, ignore_errors=True)
            file.unlink(missing_ok=True)
        if not file.exists():
            return
        try:
            there = json.loads(file.read_text(encoding='utf-8'))
            name, model = there['analysis'], there['models'][0]['name']
        except (KeyError, TypeError, ValueError, IndexError):
            name, model = None, 'an unknown model'
        if name != self.identity:
            raise ValueError(
                f'{self.out} holds another analysis ({model}: another model, other '
                'images or other settings); give another --out, or replace it by '
                '--fresh.'
            )

    @property
    def pairs(self) -> list[Pair]:
        """All representations, in order."""
        return [(each, layer) for each in self.subjects for layer in each.layers]

    def run(self) -> AnalysisResults:
        """Measure what is missing, and write what is known.

        Raises:
            ValueError: If there is no time for a single measure.
        """
        wanted = [
            (pair, measure)
            for pair in self.pairs
            for measure in self.measures
            if measure != CKA
        ]
        results = self._empty()
        done = 0
        with self.board:
            self.board.start(len(wanted) + (CKA in self.measures), 0)
            for pair, measured in zip(self.pairs, results.measured):
                done += self._measure_all(pair, measured, results)
            if CKA in self.measures:
                done += self._compare(results)
        if results.missing and not done:
            raise ValueError(
                f'There is no time left for a single measure: {len(results.missing)} '
                f'are missing, the next one {results.missing[0]}; give more --minutes.'
            )
        results.finished = not results.missing
        self._write(results)
        figures = draw_figures(results, self.out)
        to_markdown(results, figures, self.out / 'representation.md')
        return results

    def _empty(self) -> AnalysisResults:
        widths = itertools.chain(*(self._widths[id(each)] for each in self.subjects))
        measured = [
            Measured(
                _name_of(pair),
                pair[0].name,
                pair[1].layer,
                POOLING[pair[1].ndim],
                width,
            )
            for pair, width in zip(self.pairs, widths)
        ]
        return AnalysisResults(self._about(), self.measures, measured)

    def _measure_all(
        self, pair: Pair, measured: Measured, results: AnalysisResults
    ) -> int:
        """Take the measures of one representation; how many, with those on disk."""
        bench, done = self._bench(pair), 0
        with DefaultScope.overwrite_default_scope(pair[0].scope):
            for measure in self.measures:
                if measure == CKA:
                    continue
                result = self._parts.get(_part_of(pair, measure), KINDS[measure])
                if result is None and not self._in_time():
                    results.missing.append(f'{measure} of {measured.name}')
                    continue
                if result is None:
                    self.board.name(f'{measured.name}, {measure}')
                    result = self._measure(bench, measure)
                    if not isinstance(result, Refused):  # that is tried again
                        self._parts.put(_part_of(pair, measure), result)
                    self._write(results)
                measured.results[measure] = result
                done += 1
                self.board.advance()
        return done

    def _measure(self, bench: Bench, measure: str) -> Any:
        """Take one measure, or say why not."""
        try:
            return MEASURE[measure](bench)
        except (GradientBlocked, ValueError) as error:
            return Refused(' '.join(str(error).split()))

    def _compare(self, results: AnalysisResults) -> int:
        """CKA of all pairs; a pair that has none is told."""
        if not self._in_time():
            results.missing.append('CKA')
            return 0
        self.board.name('CKA')
        features = []
        for pair in self.pairs:
            with DefaultScope.overwrite_default_scope(pair[0].scope):
                features.append(
                    (_name_of(pair), self._bench(pair).features['measured'])
                )
        for first, second in itertools.combinations(features, 2):
            name = [first[0], second[0], *(each.identity for each in self.subjects)]
            one = self._parts.get(name, Similarity)
            try:
                if one is None:
                    one = measure_similarity(first, second, self.settings.seed)
                    self._parts.put(name, one)
                results.similarities.append(one)
            except ValueError as error:
                results.refused.append(f'CKA of {first[0]} and {second[0]}: {error}')
        if len(features) < 2:
            results.refused.append(
                'CKA compares two representations at least; give several --layer '
                '(or --taps, --timestep), or --compare.'
            )
        self.board.advance()
        return 1

    def _in_time(self) -> bool:
        return self.deadline is None or clock.monotonic() < self.deadline

    @property
    def _parts(self) -> ResultStore:
        """What is kept of measures; names say what it depends on."""
        images = self.subjects[0].images.digest()
        common = [SCHEMA, __version__, self.settings.identity(), images]
        return ResultStore(self.out / 'parts', common)

    def _about(self) -> dict[str, Any]:
        """Where numbers come from, without a path of this machine."""
        first = self.subjects[0]
        models = [
            {'name': each.name, **each.about, 'fingerprint': each.fingerprint}
            for each in self.subjects
        ]
        return strict_json(
            {
                'analysis': self.identity,
                'task': self.task.name,
                'models': models,
                'dataset': first.images.about(),
                'probe': self.task.probe,
                'definitions': {name: DEFINITIONS[name] for name in self.measures},
                'settings': self.settings.identity(),
                'versions': versions(),
                'device': device_of(first.layers[0]).type,
            }
        )

    def _write(self, results: AnalysisResults) -> None:
        """Write what is known, whole or not at all."""
        write_json(self.out / FILE, results.to_json())


def _name_of(pair: Pair) -> str:
    """Name of a representation in tables."""
    subject, layer = pair
    return f'{subject.name}, {layer.layer}'


def _part_of(pair: Pair, measure: str) -> list[str]:
    """What tells the result of a measure from others."""
    return [pair[0].identity, pair[1].layer, measure]
