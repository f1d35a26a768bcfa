"""Fit one perturbation for all images (universal) on a config's training images."""

import argparse
import sys
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.runner import Runner
from rich.console import Console
from rich.markup import escape

from mmdiff.attacks import GradientBlocked
from mmdiff.engine.loops.universal_loop import fit_config
from mmdiff.engine.presets import attack_configs
from mmdiff.utils.configs import mistakes_in_a_sentence, work_dir_of


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=f'{__doc__} They are read by the test pipeline, without images '
        'that are in the test set. Test it by tools/test.py --attack universal '
        '--attack-options file=OUT. A fit that was killed goes on where it is started '
        'again.'
    )
    parser.add_argument('config', help='config file with train and test dataloader')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', required=True, help='file to write, .safetensors')
    parser.add_argument('--eps', type=float, required=True, help='of 255, or in L2')
    parser.add_argument('--norm', default='linf', choices=['linf', 'l2'])
    parser.add_argument('--objective', default='detections', help="as of attacks' own")
    parser.add_argument(
        '--options',
        nargs='+',
        action=DictAction,
        default={},
        help='mask=..., eot=..., seed=... of the fit, as in --attack-options',
    )
    parser.add_argument(
        '--step-size', type=float, help='default: falls from eps / 4 to 0'
    )
    parser.add_argument('--epochs', type=int, default=10)
    parser.add_argument('--batch-size', type=int, default=8, help='images of one step')
    parser.add_argument('--indices', type=int, help='fit on the first N images only')
    parser.add_argument('--work-dir', help="default: the config's, or work_dirs/CONFIG")
    parser.add_argument('--fresh', action='store_true', help='replace what is there')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    return parser.parse_args()


def fit(args: argparse.Namespace) -> None:
    if not Path(args.checkpoint).is_file():
        raise FileNotFoundError(f'There is no checkpoint {args.checkpoint}.')
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    (attack,) = attack_configs('pgd', str(args.eps), **args.options)
    attack.update(norm=args.norm, objective=args.objective, step_size=args.step_size)
    cfg = fit_config(
        cfg,
        attack=attack,
        out=args.out,
        epochs=args.epochs,
        batch_size=args.batch_size,
        indices=args.indices,
        fresh=args.fresh,
    )
    cfg.work_dir = work_dir_of(cfg, args.config, args.work_dir)
    cfg.load_from = args.checkpoint
    with mistakes_in_a_sentence():
        runner = Runner.from_cfg(cfg)
    runner.test()
    Console().print(f'written to {escape(args.out)}')


def main() -> None:
    args = parse_args()
    try:
        fit(args)
    except (FileNotFoundError, GradientBlocked, ValueError) as error:
        sys.exit(f'fit_universal.py: {error}')
    except KeyboardInterrupt:
        sys.exit('fit_universal.py: stopped; started again, it goes on.')


if __name__ == '__main__':
    main()
