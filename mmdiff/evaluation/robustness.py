"""Name attacks, add up what they did, and write what was found."""

import inspect
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from rich.markup import escape
from rich.table import Table

from mmdiff.attacks import Attack, AttackStats
from mmdiff.utils.configs import config_path
from mmdiff.registry import ATTACKS

SCHEMA = 'mmdiff-robustness/2'
PROTOCOLS = ('adaptive', 'paper')
# In configs/_base_/attacks.
PRESETS = ('quick', 'standard', 'paper_ares', 'paper_dag', 'paper_oddefense')
ATTACK_NAMES = {
    'pgd': dict(type='PGD'),
    'dag': dict(type='DAG'),
    'mim': dict(type='MIM'),
    'apgd': dict(type='APGD'),
    'square': dict(type='Square'),
    'noise': dict(type='RandomNoise'),
    'vanishing': dict(type='APGD', objective='vanishing'),
    'fabrication': dict(type='APGD', objective='fabrication'),
    'mislabel': dict(type='APGD', objective='mislabel'),
    'cwa': dict(type='APGD', objective='cwa'),
    'transfer': dict(type='Transfer', attack=dict(type='mmdiff.MIM')),
}


def attack_configs(
    names: str, eps: str | None = None, steps: int | None = None, **options
) -> list[dict]:
    """Configs of the attacks that a command line names, each built once to check it.

    Args:
        names: ``'pgd,dag'``, or a preset, ``quick``, ``standard``, ``paper_ares``, ...
        eps: ``'2,4,8'``, in pixel units: every attack at every one of them. ``None`` is
            that of a preset, no budget (as published) for DAG and 8 for all others.
        steps: Of every attack but noise, which has none; ``None`` is its own default.
        **options: Further arguments of all attacks that have them; ``source`` is
            ``transfer``'s only, all others reach the attack (MIM) that it runs on the
            source.

    Raises:
        ValueError: For an unknown attack, a number that is none, or arguments that no
            attack takes.

    Example:
        >>> [attack['eps'] for attack in attack_configs('pgd', '2,4')]
        [2.0, 4.0]
    """
    try:
        budgets = [float(e) for e in eps.split(',')] if eps else [None]
    except ValueError:
        raise ValueError(
            f'eps={eps!r} must be numbers in pixel units with commas between: 2,4,8.'
        ) from None
    chosen = []
    for name in names.split(','):
        if name in PRESETS:
            preset = Config.fromfile(config_path(f'_base_/attacks/{name}.py'))
            chosen += [dict(attack) for attack in preset.robust_test_cfg.attacks]
        elif name in ATTACK_NAMES:
            chosen.append(ATTACK_NAMES[name])
        else:
            known = ', '.join((*ATTACK_NAMES, *PRESETS))
            raise ValueError(f'There is no attack {name!r}; choose from {known}.')
    configs, taken = [], {'source'}
    for attack in chosen:
        for budget in budgets:
            # By its full name, whatever scope the detector is of.
            kind = attack['type'].removeprefix('mmdiff.')
            inner = attack.get('attack', dict(type=f'mmdiff.{kind}'))['type']
            has = arguments(ATTACKS.get(inner))
            own = {k: v for k, v in options.items() if k in has}
            taken |= {*own}
            if budget is not None:
                own['eps'] = budget
            if steps is not None and kind != 'RandomNoise':
                own['steps'] = steps
            config = {**attack, 'type': f'mmdiff.{kind}'}
            if kind == 'Transfer':
                config['attack'] = {**attack['attack'], **own}
                config['source'] = options.get('source', '')
            else:
                config.update(own)
            ATTACKS.build(config)
            configs.append(config)
    if unknown := [name for name in options if name not in taken]:
        raise ValueError(f'No attack of {names!r} takes the argument {unknown[0]!r}.')
    if 'source' in options and not any('source' in config for config in configs):
        raise ValueError('source=CONFIG,CKPT belongs to the attack transfer; add it.')
    return configs


def protocol_of(names: str) -> str:
    """``'paper'`` for presets of that name, else ``'adaptive'``.

    Raises:
        ValueError: If both are named.
    """
    found = {
        'paper' if name.startswith('paper_') else 'adaptive'
        for name in names.split(',')
    }
    if len(found) > 1:
        raise ValueError(
            f'{names!r} mixes attacks as published with others; run paper_* by itself.'
        )
    return found.pop()


def arguments(kind: type) -> list[str]:
    """Names of what an attack can be built with."""
    found: list[str] = []
    for base in kind.__mro__:
        own = inspect.signature(base.__init__).parameters
        found += [k for k in own if k not in ('self', 'args', 'kwargs', *found)]
        if 'kwargs' not in own:  # nothing is handed on to the next class
            break
    return found


def parse_attacks(
    names: str, eps: str | None = None, steps: int | None = None, **options
) -> list[Attack]:
    """Build the attacks of :func:`attack_configs`.

    Example:
        >>> [attack.eps for attack in parse_attacks('pgd', '2,4')]
        [2.0, 4.0]
    """
    configs = attack_configs(names, eps, steps, **options)
    return [ATTACKS.build(config) for config in configs]


def merge_stats(parts: Iterable[AttackStats]) -> AttackStats:
    """One account of several."""
    total = AttackStats()
    for part in parts:
        for name in (field.name for field in fields(AttackStats)):
            mine, other = getattr(total, name), getattr(part, name)
            if name == 'losses':
                for step, value in other.items():
                    mine[step] = mine.get(step, 0.0) + value
            elif name.startswith('max_') or name == 'pixel_max':
                setattr(total, name, max(mine, other))
            elif name == 'pixel_min':
                total.pixel_min = min(mine, other)
            else:
                setattr(total, name, mine + other)
    return total


def main_metric(entry: dict) -> float:
    """The figure to compare: mAP of the VOC or COCO metric, or the first one."""
    metrics = entry['metrics']
    for key, value in metrics.items():
        if key.endswith(('/mAP', '/bbox_mAP')):
            return value
    return next(iter(metrics.values()))


def restrict(evaluator: Evaluator, img_ids: Iterable) -> None:
    """Have metrics with a file of their own, COCO's, count these images only."""
    for metric in evaluator.metrics:
        if getattr(metric, '_coco_api', None) is not None:
            metric.img_ids = list(img_ids)


def write_robustness(
    path: str | Path, cfg: Config, checkpoint: str, results: Sequence[dict], **more
) -> dict:
    """Write ``robustness.json``, whole or not at all.

    Args:
        path: File to write.
        cfg: Config of the model.
        checkpoint: Its weights.
        results: Of :class:`mmdiff.engine.RobustTestLoop`, each with its ``reasons``.
        **more: Further parts: ``name``, ``protocol``, ``cost``, ``sanity``,
            ``gallery``.

    Returns:
        What was written.
    """
    dataset = cfg.test_dataloader.dataset
    reasons = [reason for entry in results for reason in entry.get('reasons', ())]
    reasons = list(dict.fromkeys(reasons))
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
        results=list(results),
        unreliable=bool(reasons),
        reasons=reasons,
        **more,
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + '.partial')
    partial.write_text(json.dumps(report, indent=1) + '\n')
    os.replace(partial, path)
    return report


def make_table(report: dict) -> Table:
    """For the terminal; ``!`` marks what is unreliable."""
    table = Table(
        title=f'{report["name"]}: robust mAP (protocol: {report["protocol"]})'
    )
    for column in ('attack', 'eps', 'steps', 'mAP', 'seconds', 'gradients', 'queries'):
        table.add_column(column)
    for entry in report['results']:
        label = escape(entry['label']) + (' [bold red]![/]' if entry['reasons'] else '')
        if entry.get('cumulative'):
            label += ' (and those above)'
        cells = [entry.get('eps'), entry.get('steps'), f'{main_metric(entry):.3f}']
        cells += [entry['cost'][k] for k in ('seconds', 'grad_evals', 'queries')]
        table.add_row(label, *('' if c is None else str(c) for c in cells))
    return table


def _versions() -> dict[str, str]:
    import mmcv
    import mmdet
    import mmengine

    import mmdiff

    found = {m.__name__: m.__version__ for m in (mmdiff, mmdet, mmcv, mmengine, torch)}
    return {**found, 'diffusers': version('diffusers')}
