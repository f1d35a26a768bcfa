"""Metrics under common corruptions: P, mPC and rPC (Michaelis et al. 2019)."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mmengine.dist import get_rank
from mmengine.runner import Runner

from mmdiff.datasets import Corrupt
from mmdiff.evaluation.entry import main_metric
from mmdiff.evaluation.reading import numbers
from mmdiff.evaluation.scoring import restrict_images
from mmdiff.utils.digests import digest_file, digest_json
from mmdiff.utils.files import strict_json, write_json

from .corruption_tables import CorruptionTables
from .hooks import AttackHook
from .loops.image_set import ImageSet

Pair = tuple[str, int]  # a corruption and its severity
CLEAN: Pair = ('clean', 0)
LIBRARY = 'imagecorruptions-imaug'
SCHEMA = 'mmdiff-corruptions/2'


def with_corruption(dataset: dict, corruption: str, severity: int) -> dict:
    """Config of a dataset whose images are corrupted right after they are loaded.

    Raises:
        ValueError: If the dataset's own pipeline loads no images.
    """
    dataset = copy.deepcopy(dataset)
    pipeline = dataset.get('pipeline', [])
    loads = [i for i, step in enumerate(pipeline) if 'LoadImage' in str(step['type'])]
    if not loads:
        name = strict_json(dataset['type'])
        raise ValueError(
            f'{name} has no LoadImageFromFile in its own pipeline to '
            'corrupt images after; test one dataset, without wrappers.'
        )
    step = {'type': 'mmdiff.Corrupt', 'corruption': corruption, 'severity': severity}
    pipeline.insert(loads[0] + 1, step)
    return dataset


@dataclass
class Summary:
    """Means over a plan of corruptions; ``None`` where not all is known.

    Args:
        P: Main metric on clean images.
        mPC: Its mean over corruptions and severities.
        rPC: ``mPC / P``.

    Example:
        >>> rows = [
        ...     {'corruption': 'clean', 'severity': 0, 'metrics': {'a/mAP': 0.5}},
        ...     {'corruption': 'fog', 'severity': 1, 'metrics': {'a/mAP': 0.25}},
        ... ]
        >>> Summary.of(rows, [('fog', 1)])
        Summary(P=0.5, mPC=0.25, rPC=0.5)
    """

    P: float | None
    mPC: float | None
    rPC: float | None

    @classmethod
    def of(cls, rows: Collection[dict], plan: Sequence[Pair]) -> Summary:
        """Summarize rows of a report, those of the plan only."""
        values = {}
        for row in rows:
            values[row['corruption'], row['severity']] = main_metric(row['metrics'])
        clean, mean = values.get(CLEAN), None
        if plan and all(pair in values for pair in plan):
            mean = sum(values[pair] for pair in plan) / len(plan)
        known = bool(clean) and mean is not None
        return cls(clean, mean, mean / clean if known else None)


@dataclass
class CorruptionReport:
    """``corruptions.json``: written anew after every test.

    Args:
        path: File to write.
        about: What results belong to.
        plan: Corruptions and severities that were asked for.
        tables: What intervals are made of.
        rows: Results by corruption and severity.
    """

    path: Path
    about: dict[str, Any]
    plan: list[Pair]
    tables: CorruptionTables
    rows: dict[Pair, dict] = field(default_factory=dict)

    def read(self) -> None:
        """Take over what is in the file, if there is one.

        Raises:
            ValueError: If it is of another model, other weights or other images.
        """
        if not self.path.exists():
            return
        report = json.loads(self.path.read_text(encoding='utf-8'))
        if report.get('fingerprint') != self.about['fingerprint']:
            raise ValueError(
                f'{self.path} is of another model, other weights or other images; '
                'start fresh or name another file.'
            )
        self.tables.read()
        for row in report['results']:
            row['metrics'] = numbers(row['metrics'])
            pair = row['corruption'], row['severity']
            if self.tables.knows(_name(pair), main_metric(row['metrics'])):
                self.rows[pair] = row

    @property
    def missing(self) -> list[Pair]:
        """What is to be tested, clean images first."""
        return [pair for pair in (CLEAN, *self.plan) if pair not in self.rows]

    def add(self, pair: Pair, row: dict) -> None:
        """Take in a test that was just run, and write both files."""
        # The table first: a row without one is tested again.
        self.tables.add(_name(pair), row['metrics'])
        self.rows[pair] = row
        self.write()

    def to_json(self) -> dict[str, Any]:
        """What the file holds."""
        names, tables = [_name(pair) for pair in self.plan], self.tables
        for pair, row in self.rows.items():
            row['interval'] = tables.interval(_name(pair))
        return {
            **self.about,
            'corruptions': list(dict.fromkeys(name for name, _ in self.plan)),
            'severities': sorted({severity for _, severity in self.plan}),
            **vars(Summary.of(self.rows.values(), self.plan)),
            'intervals': {
                **tables.describe(),
                **tables.intervals(names, _name(CLEAN)),
            },
            'results': list(self.rows.values()),
        }

    def write(self) -> dict[str, Any]:
        """Write the file on the first rank; return what it holds."""
        report = self.to_json()
        if get_rank() == 0:
            write_json(self.path, report)
        return report


def evaluate_corruptions(
    runner: Runner,
    corruptions: Sequence[str],
    severities: Sequence[int],
    out: str | Path,
    fresh: bool = False,
) -> dict[str, Any]:
    """Test clean and under every corruption and severity, with the runner's metrics.

    ``out`` is written after every test; what is in it is not tested again. Returns the
    report: ``results`` of all tests, a :class:`Summary` of those asked for, and their
    ``intervals`` over draws of the images (:class:`CorruptionTables`).

    Args:
        runner: Runner with a plain ``TestLoop``, and its weights in ``load_from``.
        corruptions: Names of corruptions (:class:`mmdiff.datasets.Corrupt`).
        severities: Severities, 1 to 5.
        out: JSON file of the report.
        fresh: Forget what is in ``out``.

    Raises:
        FileNotFoundError: If the weights are no file.
        ValueError: For an unknown corruption or severity, if images are attacked as
            well, or if ``out`` is of another model, other weights or other images.
    """
    names, levels = dict.fromkeys(corruptions), sorted(set(severities))
    plan = [(name, severity) for name in names for severity in levels]
    for pair in plan:
        Corrupt(*pair)
        with_corruption(runner.cfg.test_dataloader['dataset'], *pair)
    if any(isinstance(hook, AttackHook) for hook in runner.hooks):
        raise ValueError('Corruptions are measured without AttackHook; remove it.')
    about = _describe(runner, Path(runner._load_from or ''))
    tables = CorruptionTables(runner, Path(out))
    report = CorruptionReport(Path(out), about, plan, tables)
    if not fresh:
        report.read()
    for pair in report.missing:
        row = _test(runner, pair)
        report.add(pair, row)
        left = len(set(report.missing) & set(plan))
        runner.logger.info(
            f'{pair[0]} {pair[1]}: {main_metric(row["metrics"]):.4f} '
            f'({len(plan) - left} of {len(plan)})'
        )
    return report.write()


def _name(pair: Pair) -> str:
    """Name of a test: ``'fog 3'``."""
    return f'{pair[0]} {pair[1]}'


def _test(runner: Runner, pair: Pair) -> dict[str, Any]:
    """Test under one corruption."""
    start = time.perf_counter()
    loader = {**runner.cfg.test_dataloader, 'persistent_workers': False}
    if pair != CLEAN:
        loader['dataset'] = with_corruption(loader['dataset'], *pair)
    runner.test_loop.dataloader = dataloader = runner.build_dataloader(loader)
    dataset = dataloader.dataset
    if hasattr(dataset, 'get_data_info'):
        infos = map(dataset.get_data_info, range(len(dataset)))
        ids = [info.get('img_id') for info in infos]
        restrict_images(runner.test_loop.evaluator, ids)
    metrics = runner.test()
    return {
        'corruption': pair[0],
        'severity': pair[1],
        'metrics': metrics,
        'seconds': round(time.perf_counter() - start, 2),
        'images': len(dataset),
    }


def _describe(runner: Runner, weights: Path) -> dict[str, Any]:
    """What results belong to; ``fingerprint``: of model, weights and images."""
    cfg = runner.cfg
    if not weights.is_file():
        raise FileNotFoundError(f'There is no checkpoint {weights}; give a local file.')
    versions = {LIBRARY: version(LIBRARY)}
    parts = [cfg.model, cfg.test_dataloader.dataset, cfg.test_evaluator, versions]
    settings = {k: v for k, v in cfg.test_cfg.items() if k != 'type'}  # fp16, say
    parts += [settings] if settings else []
    # A file may hold another image today, or other annotations.
    parts.append(ImageSet(runner.test_loop.dataloader, lambda sample: None).digests())
    return {
        'schema': SCHEMA,
        'config': str(cfg.filename),
        'checkpoint': str(weights),
        'versions': versions,
        'fingerprint': digest_json([parts, digest_file(weights)]),
    }
