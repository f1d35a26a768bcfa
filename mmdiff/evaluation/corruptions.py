"""Metrics under common corruptions: P, mPC and rPC (Michaelis et al. 2019)."""

import copy
import hashlib
import json
import os
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.runner import Runner

from mmdiff.datasets import Corrupt

from .robustness import main_metric, restrict

CLEAN = ('clean', 0)
LIBRARY = 'imagecorruptions-imaug'


def with_corruption(dataset: dict, corruption: str, severity: int) -> dict:
    """Config of a dataset whose images are corrupted right after they are loaded."""
    dataset = copy.deepcopy(dataset)
    pipeline = dataset.get('pipeline', [])
    loads = [i for i, step in enumerate(pipeline) if 'LoadImage' in str(step['type'])]
    if not loads:
        raise ValueError(
            f'{dataset["type"]} has no LoadImageFromFile in its own pipeline to '
            'corrupt images after; test one dataset, without wrappers.'
        )
    step = dict(type='mmdiff.Corrupt', corruption=corruption, severity=severity)
    pipeline.insert(loads[0] + 1, step)
    return dataset


def summarize(rows: Sequence[dict], plan: Sequence[tuple[str, int]]) -> dict:
    """P (clean), mPC (mean over the plan), rPC = mPC / P; ``None`` where not known."""
    found = {(r['corruption'], r['severity']): main_metric(r) for r in rows}
    whole = bool(plan) and all(pair in found for pair in plan)
    mean = sum(found[pair] for pair in plan) / len(plan) if whole else None
    clean = found.get(CLEAN)
    return dict(P=clean, mPC=mean, rPC=mean / clean if clean and whole else None)


def evaluate_corruptions(
    runner: Runner,
    corruptions: Sequence[str],
    severities: Sequence[int],
    out: str | Path,
    fresh: bool = False,
) -> dict:
    """Test clean and under every corruption and severity, with the runner's metrics.

    ``out`` is written after every test; what is in it is not tested again. Returns the
    report: ``results`` of all tests and a :func:`summarize` of those asked for.

    Args:
        runner: With a plain ``TestLoop``, and its weights in ``load_from``.
        corruptions, severities: See :class:`mmdiff.datasets.Corrupt`.
        out: JSON file of the report.
        fresh: Forget what is in ``out``.

    Raises:
        FileNotFoundError: If the weights are no file.
        ValueError: For an unknown corruption or severity, if images are attacked as
            well, or if ``out`` is of another model, other weights or other images.
    """
    plan = [(c, s) for c in dict.fromkeys(corruptions) for s in sorted({*severities})]
    for pair in plan:
        Corrupt(*pair)
    if any(type(hook).__name__ == 'AttackHook' for hook in runner.hooks):
        raise ValueError('Corruptions are measured without AttackHook; remove it.')
    out, about = Path(out), _describe(runner.cfg, Path(runner._load_from or ''))
    rows = {}
    if out.exists() and not fresh:
        report = json.loads(out.read_text())
        if report.get('fingerprint') != about['fingerprint']:
            raise ValueError(
                f'{out} is of another model, other weights or other images; start '
                'fresh or name another file.'
            )
        rows = {(r['corruption'], r['severity']): r for r in report['results']}
    loader = {**runner.cfg.test_dataloader, 'persistent_workers': False}
    clean = loader['dataset']
    for pair in [pair for pair in (CLEAN, *plan) if pair not in rows]:
        start = time.perf_counter()
        loader['dataset'] = clean if pair == CLEAN else with_corruption(clean, *pair)
        runner.test_loop.dataloader = dataloader = runner.build_dataloader(loader)
        if hasattr(dataset := dataloader.dataset, 'get_data_info'):
            infos = map(dataset.get_data_info, range(len(dataset)))
            ids = [info.get('img_id') for info in infos]
            restrict(runner.test_loop.evaluator, ids)
        row = dict(corruption=pair[0], severity=pair[1], metrics=runner.test())
        row.update(seconds=round(time.perf_counter() - start, 2))
        rows[pair] = dict(row, images=len(dataset))
        _write(out, about, rows, plan)
        done = f'{len({*rows} & {*plan})} of {len(plan)}'
        runner.logger.info(f'{pair[0]} {pair[1]}: {main_metric(row):.4f} ({done})')
    return _write(out, about, rows, plan)


def _write(out: Path, about: dict, rows: dict, plan: list) -> dict:
    """Whole or not at all."""
    names, severities = zip(*plan)
    about = dict(about, corruptions=[*dict.fromkeys(names)])
    about.update(severities=sorted({*severities}), **summarize(rows.values(), plan))
    report = dict(about, results=[*rows.values()])
    if get_rank() == 0:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_name(out.name + '.partial')
        partial.write_text(json.dumps(report, indent=1) + '\n')
        os.replace(partial, out)
    return report


def _describe(cfg: Config, weights: Path) -> dict:
    """What results belong to; ``fingerprint``: of model, weights and images."""
    if not weights.is_file():
        raise FileNotFoundError(f'There is no checkpoint {weights}; give a local file.')
    versions = {LIBRARY: version(LIBRARY)}
    parts = [cfg.model, cfg.test_dataloader.dataset, cfg.test_evaluator, versions]
    parts = json.dumps(parts, sort_keys=True, default=str).encode()
    key = hashlib.sha256(parts + weights.read_bytes()).hexdigest()[:12]
    about = dict(config=str(cfg.filename), checkpoint=str(weights), versions=versions)
    return dict(schema='mmdiff-corruptions/1', **about, fingerprint=key)
