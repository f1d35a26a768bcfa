"""Distil a class-conditional prior into one that predicts for all classes at once."""

import argparse
import sys

from mmengine.config import DictAction
from mmengine.runner import Runner

from mmdiff.diffusion.json_files import one_line
from mmdiff.engine.prior_training import MISTAKES, train_and_export, training_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='a config of configs/distillation')
    parser.add_argument(
        '--teacher', help="source of the prior, in place of the config's"
    )
    parser.add_argument('--work-dir', help="default: the config's, or work_dirs/CONFIG")
    parser.add_argument('--out', help='folder to export to (WORK_DIR/prior)')
    parser.add_argument(
        '--dtype',
        choices=['float32', 'float16', 'bfloat16'],
        default='float32',
        help='precision of the exported weights',
    )
    parser.add_argument(
        '--num-samples', type=int, default=16, help='images in the grid'
    )
    parser.add_argument(
        '--resume', action='store_true', help='go on from the last checkpoint'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='override the config'
    )
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none'
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        cfg = training_config(args)
        if args.teacher is not None:
            cfg.model.model.source = args.teacher
        runner = Runner.from_cfg(cfg)
    except MISTAKES as error:
        sys.exit(f'distill_multihead.py: {one_line(error)}')
    train_and_export(runner, args)


if __name__ == '__main__':
    main()
