"""Distil a class-conditional prior into one that predicts for all classes at once."""

import argparse
import sys

from mmengine.runner import Runner

from mmdiff.diffusion.json_files import one_line
from mmdiff.engine.prior_training import (
    add_training_arguments,
    train_and_export,
    training_config,
)
from mmdiff.utils.configs import MISTAKES


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='a config of configs/distillation')
    parser.add_argument(
        '--teacher', help="source of the prior, in place of the config's"
    )
    add_training_arguments(parser)
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
