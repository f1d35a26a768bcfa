"""Test a model: mmdet's own tools/test.py with its flags, and runs under attack."""

import argparse
import os
import runpy
import sys
from pathlib import Path

import mmdet
from mmengine.config import Config, DictAction
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table

from mmdiff.evaluation import (
    draw_grid,
    evaluate,
    main_metric,
    parse_attacks,
    write_robustness,
)

MMDET_TEST = Path(mmdet.__file__).parent / '.mim' / 'tools' / 'test.py'


def parse_args() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=f"{__doc__} Flags not listed here are mmdet's. With --attack, "
        '--out takes a .json file, and --show-dir gets clean and attacked images with '
        'their detections.',
        epilog='mmdet flags: config checkpoint --work-dir --out --show --show-dir '
        '--wait-time --cfg-options --launcher --tta',
    )
    parser.add_argument('--attack', help='NAME[,NAME] of pgd, dag')
    parser.add_argument('--eps', help='budgets in pixel units: 2,4,8 (of 255)')
    parser.add_argument('--steps', type=int, help='steps of the attacks')
    parser.add_argument(
        '--attack-options',
        nargs='+',
        action=DictAction,
        default={},
        help='further arguments of the attacks: restarts=3 objective=cls',
    )
    parser.add_argument('--indices', type=int, help='attack the first N images only')
    return parser.parse_known_args()


def test_under_attack(own: argparse.Namespace, args: argparse.Namespace) -> None:
    if args.tta:
        raise ValueError(
            'An attack has no one input to perturb under test-time augmentation; run '
            'without --tta.'
        )
    if args.out and not args.out.endswith('.json'):
        raise ValueError(f'With --attack, --out writes .json, not {args.out!r}.')
    if args.show:
        raise ValueError('With --attack there is no --show; use --show-dir.')
    attacks = parse_attacks(own.attack, own.eps, own.steps, **own.attack_options)
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or f'./work_dirs/{Path(args.config).stem}'
    cfg.load_from = args.checkpoint
    if own.indices is not None:
        cfg.test_dataloader.dataset.indices = own.indices
    runner = Runner.from_cfg(cfg)
    out = Path(args.out or Path(cfg.work_dir) / 'robustness.json')
    results = []
    for attack in (None, *attacks):
        results.append(evaluate(runner, attack))
        if runner.rank == 0:  # after every attack: an interruption loses only one
            report = write_robustness(out, cfg, args.checkpoint, results)
    if runner.rank != 0:
        return
    if args.show_dir:
        folder = Path(cfg.work_dir) / args.show_dir
        folder.mkdir(parents=True, exist_ok=True)
        for attack in attacks:
            kind = type(attack).__name__.lower()
            name = f'{kind}.png' if attack.eps is None else f'{kind}_{attack.eps:g}.png'
            shown = range(min(3, len(runner.test_dataloader.dataset)))
            draw_grid(folder / name, {cfg.model.type: runner}, attack, shown)
    table = Table(title=f'{cfg.filename}: robust mAP (protocol: adaptive)')
    for column in ('attack', 'eps', 'steps', 'mAP', 'seconds', 'gradients'):
        table.add_column(column)
    for entry in results:
        table.add_row(
            entry['attack'],
            str(entry.get('eps', '')),
            str(entry.get('steps', '')),
            f'{main_metric(entry):.3f}',
            str(entry['cost']['seconds']),
            str(entry['cost']['grad_evals']),
        )
    console = Console()
    console.print(table)
    for reason in report['reasons']:
        console.print(f'[bold red]unreliable:[/] {reason}')
    console.print(f'written to {out}')


def main() -> None:
    own, rest = parse_args()
    sys.argv = [sys.argv[0], *rest]
    mmdet_test = runpy.run_path(str(MMDET_TEST))
    if own.attack is None:
        given = [n for n in ('eps', 'steps', 'indices') if getattr(own, n) is not None]
        if given:
            sys.exit(f'--{given[0]} belongs to an attack; add --attack pgd.')
        mmdet_test['main']()
        return
    args = mmdet_test['parse_args']()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    try:
        test_under_attack(own, args)
    except ValueError as error:
        sys.exit(f'test.py: {error}')


if __name__ == '__main__':
    main()
