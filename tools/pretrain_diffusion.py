"""Train a diffusion prior and export it as a diffusers folder."""

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
    parser.add_argument('config', help='a config of configs/pretrain')
    add_training_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        runner = Runner.from_cfg(training_config(args))
    except MISTAKES as error:
        sys.exit(f'pretrain_diffusion.py: {one_line(error)}')
    train_and_export(runner, args)


if __name__ == '__main__':
    main()
