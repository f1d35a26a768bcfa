"""Measure a detector clean and under attacks, and write what was found."""

import json
import os
import resource
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import all_gather_object
from mmengine.runner import Runner

from mmdiff.attacks import Attack, AttackStats
from mmdiff.engine import AttackHook
from mmdiff.registry import ATTACKS

SCHEMA = 'mmdiff-robustness/1'
ATTACK_NAMES = {'pgd': 'PGD', 'dag': 'DAG'}


def parse_attacks(
    names: str, eps: str | None = None, steps: int | None = None, **options
) -> list[Attack]:
    """Build attacks from what a command line gives.

    Args:
        names: ``'pgd,dag'``.
        eps: ``'2,4,8'``, in pixel units: every attack at every one of them. ``None`` is
            8 for PGD and no budget (as published) for DAG.
        steps: Of every attack; ``None`` is its own default.
        **options: Further arguments of every attack.

    Raises:
        ValueError: For an unknown attack, or a number that is none.

    Example:
        >>> [attack.eps for attack in parse_attacks('pgd', '2,4')]
        [2.0, 4.0]
    """
    try:
        budgets = [float(e) for e in eps.split(',')] if eps else [None]
    except ValueError:
        raise ValueError(
            f'eps={eps!r} must be numbers in pixel units with commas between: 2,4,8.'
        ) from None
    attacks = []
    for name in names.split(','):
        if name not in ATTACK_NAMES:
            raise ValueError(
                f'There is no attack {name!r}; choose from {", ".join(ATTACK_NAMES)}.'
            )
        for budget in budgets:
            args = dict(options) if budget is None else dict(options, eps=budget)
            if steps is not None:
                args['steps'] = steps
            try:
                attacks.append(ATTACKS.build(dict(type=ATTACK_NAMES[name], **args)))
            except TypeError as error:
                raise ValueError(
                    f'The attack {name} does not take these arguments: {error}'
                ) from None
    return attacks


def evaluate(runner: Runner, attack: Attack | None = None) -> dict:
    """Test once, clean or under one attack.

    Args:
        runner: Holds model, checkpoint, data and metrics.
        attack: ``None`` is clean.

    Returns:
        One entry of ``results`` in ``robustness.json``.
    """
    hook = None if attack is None else AttackHook(attack, stages=('test',))
    if hook is not None:
        runner.register_hook(hook)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    try:
        metrics = runner.test()
    finally:
        if hook is not None:
            runner.hooks.remove(hook)
    seconds = time.perf_counter() - start
    entry = dict(attack='clean') if attack is None else attack.threat_model()
    entry['metrics'] = {key: float(value) for key, value in metrics.items()}
    entry['cost'] = dict(
        seconds=round(seconds, 1), grad_evals=0, peak_mem=_peak_memory()
    )
    if attack is not None:
        stats = _over_ranks(attack.stats)
        entry['cost']['grad_evals'] = stats.grad_evals
        entry['sanity'] = asdict(stats)
    return entry


def _peak_memory() -> int:
    """Bytes: of the GPU, or of the process on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _over_ranks(stats: AttackStats) -> AttackStats:
    """One account of what all ranks attacked."""
    total = AttackStats()
    for part in all_gather_object(stats):
        for name in (
            'images',
            'changed',
            'grad_evals',
            'zero_grads',
            'nonfinite_grads',
        ):
            setattr(total, name, getattr(total, name) + getattr(part, name))
        total.max_delta = max(total.max_delta, part.max_delta)
        total.max_l2 = max(total.max_l2, part.max_l2)
        total.pixel_min = min(total.pixel_min, part.pixel_min)
        total.pixel_max = max(total.pixel_max, part.pixel_max)
        for step, value in part.losses.items():
            total.losses[step] = total.losses.get(step, 0.0) + value
    return total


def main_metric(entry: dict) -> float:
    """The figure to compare: mAP of the VOC or COCO metric, or the first one."""
    metrics = entry['metrics']
    for key, value in metrics.items():
        if key.endswith(('/mAP', '/bbox_mAP')):
            return value
    return next(iter(metrics.values()))


def find_reasons(results: Sequence[dict]) -> list[str]:
    """What makes the results hard to believe, in plain words; empty if nothing does."""
    reasons = []
    clean = next((r for r in results if r['attack'] == 'clean'), None)
    for entry in results:
        if entry['attack'] == 'clean':
            continue
        name = f'{entry["attack"]} at eps={entry["eps"]}'
        sanity = entry['sanity']
        # DAG leaves an image alone in which no proposal shows an object: if that is
        # most of them, the detector is too weak for DAG to say anything.
        if entry['eps'] != 0 and sanity['changed'] <= 0.5 * sanity['images']:
            reasons.append(
                f'{name} changed {sanity["changed"]} of {sanity["images"]} images only'
            )
        losses = list(sanity.get('losses', {}).values())
        # DAG's images stop at different steps: its sums do not compare.
        if entry['attack'] == 'pgd' and losses and losses[-1] < losses[0]:
            reasons.append(f'{name} did not raise the loss')
        if sanity['nonfinite_grads']:
            reasons.append(
                f'{name} met {sanity["nonfinite_grads"]} non-finite gradients'
            )
        if sanity['zero_grads'] > 0.1 * entry['cost']['grad_evals']:
            reasons.append(
                f'{name} met {sanity["zero_grads"]} gradients that were zero'
            )
        if clean is not None and main_metric(entry) > main_metric(clean) + 1e-3:
            reasons.append(f'{name} raised the metric above the clean one')
    return reasons


def write_robustness(
    path: str | Path, cfg: Config, checkpoint: str, results: Sequence[dict]
) -> dict:
    """Write ``robustness.json``, whole or not at all.

    Args:
        path: File to write.
        cfg: Config of the model.
        checkpoint: Its weights.
        results: Of :func:`evaluate`.

    Returns:
        What was written.
    """
    dataset = cfg.test_dataloader.dataset
    reasons = find_reasons(results)
    report = dict(
        schema=SCHEMA,
        config=str(cfg.filename),
        checkpoint=str(checkpoint),
        dataset=dict(
            type=dataset.type,
            ann_file=dataset.get('ann_file', ''),
            data_root=dataset.get('data_root', ''),
            indices=dataset.get('indices'),
        ),
        versions=_versions(),
        device='cuda' if torch.cuda.is_available() else 'cpu',
        protocol='adaptive',
        results=list(results),
        unreliable=bool(reasons),
        reasons=reasons,
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + '.partial')
    partial.write_text(json.dumps(report, indent=1) + '\n')
    os.replace(partial, path)
    return report


def _versions() -> dict[str, str]:
    import mmcv
    import mmdet
    import mmengine

    import mmdiff

    found = {m.__name__: m.__version__ for m in (mmdiff, mmdet, mmcv, mmengine, torch)}
    return {**found, 'diffusers': version('diffusers')}
