"""Train a diffusion prior and export it as a diffusers folder."""

import argparse
import os
import shlex
import sys
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from mmdiff.diffusion.json_files import one_line
from mmdiff.engine import export_prior
from mmdiff.utils.configs import work_dir_of

# What a config or a source can be wrong by; mmengine adds the class to the sentence.
MISTAKES = (ValueError, TypeError, KeyError, AttributeError, OSError, ImportError)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='a config of configs/pretrain')
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
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))

    try:
        cfg = Config.fromfile(args.config)
        cfg.merge_from_dict(args.cfg_options or {})
        cfg.launcher = args.launcher
        cfg.resume = args.resume
        cfg.work_dir = work_dir_of(cfg, args.config, args.work_dir)
        runner = Runner.from_cfg(cfg)
    except MISTAKES as error:
        sys.exit(f'pretrain_diffusion.py: {one_line(error)}')
    runner.train()
    if runner.rank == 0:
        out = Path(args.out or Path(cfg.work_dir) / 'prior')
        words = [word for word in sys.argv if word != '--resume']
        command = shlex.join(['python', *words])
        export_prior(runner, out, command, args.dtype, args.num_samples)


if __name__ == '__main__':
    main()
