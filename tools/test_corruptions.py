"""Test a model under common corruptions: P, mPC and rPC (Michaelis et al. 2019)."""

import argparse
import os
import sys
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.runner import Runner
from rich.console import Console
from rich.markup import escape

from mmdiff.datasets import CORRUPTIONS, SEVERITIES
from mmdiff.engine.corruptions import evaluate_corruptions
from mmdiff.engine.loop_settings import plain_settings
from mmdiff.evaluation.tables import corruptions_table
from mmdiff.utils.configs import mistakes_in_a_sentence, work_dir_of


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=f'{__doc__} What is found is kept in --out: a run that was killed '
        'is resumed by starting it again.'
    )
    parser.add_argument('config', help='test config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--corruptions',
        nargs='+',
        default=['all'],
        metavar='NAME',
        help=f'all, or some of {", ".join(CORRUPTIONS)}',
    )
    parser.add_argument(
        '--severities', nargs='+', type=int, default=SEVERITIES, help='1 to 5'
    )
    parser.add_argument('--indices', type=int, help='test the first N images only')
    parser.add_argument('--work-dir', help="default: the config's, or work_dirs/CONFIG")
    parser.add_argument('--out', help='default: corruptions.json in the work dir')
    parser.add_argument('--fresh', action='store_true', help='forget earlier runs')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none'
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    return parser.parse_args()


def test_corruptions(args: argparse.Namespace) -> None:
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    cfg.launcher = args.launcher
    cfg.work_dir = work_dir_of(cfg, args.config, args.work_dir)
    cfg.load_from = args.checkpoint
    test_cfg = cfg.get('test_cfg') or {}
    cfg.test_cfg = plain_settings(test_cfg)
    indices = test_cfg.get('indices') if args.indices is None else args.indices
    if indices is not None:
        cfg.test_dataloader.dataset.indices = indices
    with mistakes_in_a_sentence():
        runner = Runner.from_cfg(cfg)
    names = CORRUPTIONS if args.corruptions == ['all'] else args.corruptions
    out = Path(args.out or Path(cfg.work_dir) / 'corruptions.json')
    report = evaluate_corruptions(runner, names, args.severities, out, args.fresh)
    if runner.rank == 0:
        console = Console()
        console.print(corruptions_table(report).to_rich())
        console.print(f'written to {escape(str(out))}')


def main() -> None:
    args = parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    try:
        test_corruptions(args)
    except (FileNotFoundError, ImportError, ValueError) as error:
        sys.exit(f'test_corruptions.py: {error}')


if __name__ == '__main__':
    main()
