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
from rich.markup import escape

from mmdiff.evaluation import attack_configs, draw_grid, make_table, protocol_of

LOOP_NAMES = 'RobustTestLoop', 'mmdiff.RobustTestLoop'
MMDET_TEST = Path(mmdet.__file__).parent / '.mim' / 'tools' / 'test.py'


def parse_args() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=f"{__doc__} Flags not listed here are mmdet's. With --attack, "
        '--out takes a .json file, and --show-dir gets clean and attacked images with '
        'their detections; so with a config whose test_cfg is a RobustTestLoop. What '
        'is found is kept in the work dir: a run that was killed is resumed by '
        'starting it again.',
        epilog='mmdet flags: config checkpoint --work-dir --out --show --show-dir '
        '--wait-time --cfg-options --launcher --tta',
    )
    parser.add_argument(
        '--attack',
        help='NAME[,NAME] of pgd, apgd, dag, ..., or quick, standard, paper_*',
    )
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
    parser.add_argument(
        '--skip-fooled', action='store_true', help='attack no image twice that fell'
    )
    resume = parser.add_mutually_exclusive_group()
    resume.add_argument('--resume', action='store_true', help='the default')
    resume.add_argument('--fresh', action='store_true', help='forget earlier runs')
    return parser.parse_known_args()


def load_config(args: argparse.Namespace) -> Config:
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    return cfg


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
    cfg = load_config(args)
    if own.attack is not None:
        attacks = attack_configs(own.attack, own.eps, own.steps, **own.attack_options)
        loop = dict(attacks=attacks, protocol=protocol_of(own.attack))
        cfg.test_cfg = dict(type='mmdiff.RobustTestLoop', **loop)
    given = dict(out=args.out, skip_fooled=own.skip_fooled, fresh=own.fresh)
    cfg.test_cfg.update({k: v for k, v in given.items() if v})
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or f'./work_dirs/{Path(args.config).stem}'
    cfg.load_from = args.checkpoint
    if own.indices is not None:
        cfg.test_dataloader.dataset.indices = own.indices
    runner = Runner.from_cfg(cfg)
    runner.test()
    if runner.rank == 0:
        loop = runner.test_loop
        console = Console()
        console.print(make_table(loop.report))
        for reason in loop.report['reasons']:
            console.print(f'[bold red]! unreliable:[/] {escape(reason)}')
        console.print(f'written to {loop.out}')
        if args.show_dir:
            folder = Path(cfg.work_dir) / args.show_dir
            folder.mkdir(parents=True, exist_ok=True)
            for attack, entry in zip(loop.attacks, loop.entries):
                if not entry['sanity']['blocked']:  # else there is no attacked image
                    shown = range(min(3, loop.images))
                    file = folder / f'{entry["key"]}.png'
                    draw_grid(file, {loop.name: runner}, attack, shown)


def main() -> None:
    own, rest = parse_args()
    sys.argv = [sys.argv[0], *rest]
    mmdet_test = runpy.run_path(str(MMDET_TEST))
    args = mmdet_test['parse_args']()
    if own.attack is None:
        robust = load_config(args).get('test_cfg', {}).get('type') in LOOP_NAMES
        names = ['eps', 'steps', 'attack_options']
        names += [] if robust else ['indices', 'skip_fooled', 'resume', 'fresh']
        given = [n for n in names if getattr(own, n) not in (None, False, {})]
        if given:
            flag = given[0].replace('_', '-')
            sys.exit(f'--{flag} belongs to an attack; add --attack pgd.')
        if not robust:
            mmdet_test['main']()
            return
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    try:
        test_under_attack(own, args)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'test.py: {error}')


if __name__ == '__main__':
    main()
