"""Search taps and noise level of a frozen prior by fast probes, clean and attacked."""

import argparse
import sys
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger
from rich.console import Console
from rich.markup import escape

from mmdiff.attacks import GradientBlocked
from mmdiff.engine.tap_search import SearchSettings, TapSearch
from mmdiff.engine.tap_search.board import Board
from mmdiff.engine.tap_search.pages import config_lines, notes, results_table
from mmdiff.utils.configs import mistakes_in_a_sentence, work_dir_of


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=f'{__doc__} Images are of the training set alone: some to fit the '
        'probes on, others to measure them. Writes search.json, search.md and '
        'search.png into the work dir. A search that was killed goes on where it is '
        'started again, and takes more taps and times then.'
    )
    parser.add_argument('config', help='of a detector or classifier on DiffusionUNet')
    parser.add_argument(
        '--taps', nargs='+', help='up.1 up.0+up.1 ...; default: every block'
    )
    parser.add_argument(
        '--times', nargs='+', help='timesteps, or sigmas of EDM; default: a spread'
    )
    parser.add_argument(
        '--num-noise', nargs='+', type=int, help="default: the config's"
    )
    parser.add_argument('--eps', default='2,4', help='budgets of PGD, of 255')
    parser.add_argument('--steps', type=int, default=10, help='steps of PGD')
    parser.add_argument('--eot', type=int, help='default: 4 with fresh noise, else 1')
    parser.add_argument('--minutes', type=float, help='start no cell that ends later')
    parser.add_argument('--indices', type=int, help='training images in all')
    parser.add_argument('--held-out', type=int, help='of these, to measure on')
    parser.add_argument('--batch-size', type=int)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--max-gb', type=float, default=20.0, help='features on disk')
    parser.add_argument('--work-dir', help='default: search/ in that of the config')
    parser.add_argument('--fresh', action='store_true', help='forget what is there')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    return parser.parse_args()


def settings_of(args: argparse.Namespace) -> SearchSettings:
    """Settings that the flags ask for."""
    try:
        eps = tuple(float(part) for part in args.eps.split(','))
    except ValueError:
        raise ValueError(
            f'--eps {args.eps} must be numbers in pixel units, with commas: 2,4.'
        ) from None
    return SearchSettings(
        indices=args.indices,
        held_out=args.held_out,
        eps=eps,
        steps=args.steps,
        eot=args.eot,
        batch_size=args.batch_size,
        seed=args.seed,
        max_gb=args.max_gb,
    )


def search(args: argparse.Namespace) -> None:
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    work_dir = args.work_dir or Path(work_dir_of(cfg, args.config, None)) / 'search'
    console = Console()
    MMLogger.get_instance('search_taps', log_level='WARNING')  # for the table's sake
    with mistakes_in_a_sentence():
        run = TapSearch(
            cfg,
            work_dir,
            settings_of(args),
            args.taps,
            args.times,
            args.num_noise,
            args.minutes,
            args.fresh,
            Board(console),
        )
    results = run.run()
    console.print(results_table(results).to_rich())
    for note in notes(results):
        console.print(escape(note))
    console.print(escape(config_lines(results, run.backbone.model)), highlight=False)
    console.print(f'written to {escape(str(work_dir))}')


def main() -> None:
    args = parse_args()
    try:
        search(args)
    except (FileNotFoundError, GradientBlocked, ValueError) as error:
        sys.exit(f'search_taps.py: {error}')
    except KeyboardInterrupt:
        sys.exit('search_taps.py: stopped; started again, it goes on.')


if __name__ == '__main__':
    main()
