"""What the tools that train priors share: a Runner, its training, the export."""

import argparse
import os
import shlex
import sys
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from mmdiff.utils.configs import work_dir_of

from .export import export_prior


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what both tools take beside the config."""
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


def training_config(args: argparse.Namespace) -> Config:
    """Read the config of a training, with what the command line says.

    Args:
        args: ``config``, ``cfg_options``, ``launcher``, ``resume``, ``work_dir``,
            ``local_rank``.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    cfg.launcher = args.launcher
    cfg.resume = args.resume
    cfg.work_dir = work_dir_of(cfg, args.config, args.work_dir)
    return cfg


def train_and_export(runner: Runner, args: argparse.Namespace) -> None:
    """Train a prior and write it as a folder that is a source.

    Args:
        runner: With a ``DiffusionPretrainer``.
        args: ``out``, ``dtype``, ``num_samples``.
    """
    runner.train()
    if runner.rank == 0:
        out = Path(args.out or Path(runner.work_dir) / 'prior')
        words = [word for word in sys.argv if word != '--resume']
        command = shlex.join(['python', *words])
        export_prior(runner, out, command, args.dtype, args.num_samples)
