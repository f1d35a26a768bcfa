"""Measure what layers of a model, or taps of a diffusion prior, make of images."""

import argparse
import sys
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger
from rich.console import Console
from rich.markup import escape

from mmdiff.engine.representation import (
    AnalysisSettings,
    ModelRequest,
    PriorRequest,
    RepresentationAnalysis,
)
from mmdiff.engine.representation.settings import MEASURES
from mmdiff.engine.tap_search.board import Board
from mmdiff.evaluation.representation.pages import notes, result_tables
from mmdiff.utils.configs import mistakes_in_a_sentence

CONFIGS = '.py', '.json', '.yaml', '.yml'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=f'{__doc__} Probes are fitted on training images; everything is '
        'measured on test images. An analysis that was killed goes on where it is '
        'started again, and takes more layers and measures then.'
    )
    parser.add_argument('config', help='of a detector or classifier; or a prior')
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help='of a model; none: weights as its config brings them; of a prior: '
        'nothing, or random: the same network untrained',
    )
    parser.add_argument('--out', required=True, help='folder for JSON, page, figures')
    parser.add_argument(
        '--layer',
        nargs='+',
        default=[],
        help='NAME or NAME:INDEX; default: backbone:-1',
    )
    parser.add_argument(
        '--compare', nargs='+', help='CONFIG CKPT of another model, or another prior'
    )
    parser.add_argument('--compare-layer', nargs='+', help='default: as --layer')
    add_flags_of_priors(parser)
    parser.add_argument(
        '--measures', nargs='+', default=MEASURES, help=f'of {" ".join(MEASURES)}'
    )
    add_amounts(parser)
    parser.add_argument('--minutes', type=float, help='start no measure after that')
    parser.add_argument('--batch-size', type=int)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--fresh', action='store_true', help='forget what is there')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    return parser.parse_args()


def add_flags_of_priors(parser: argparse.ArgumentParser) -> None:
    """Flags of a bare prior alone."""
    parser.add_argument('--data', help='config with the images, for a prior')
    parser.add_argument(
        '--taps', nargs='+', default=[], help='of a prior: up.1 mid ...'
    )
    times = parser.add_mutually_exclusive_group()
    times.add_argument('--timestep', nargs='+', type=float, help='of a prior')
    times.add_argument('--sigma', nargs='+', type=float, help='of an EDM prior')
    parser.add_argument('--condition', type=int, help='class asked of a prior')


def add_amounts(parser: argparse.ArgumentParser) -> None:
    """Flags of how much is measured, and how hard it is attacked."""
    parser.add_argument('--images', type=int, help='test images to measure on')
    parser.add_argument('--fit-images', type=int, help='training images to fit on')
    parser.add_argument(
        '--fit-from',
        default='training',
        choices=['training', 'test'],
        help='test: fit on other test images, where there are no training images',
    )
    parser.add_argument('--attack-images', type=int, help='how many are attacked')
    parser.add_argument(
        '--attack-eps', default='2', help='budgets of PGD, of 255: 2,4; none: no attack'
    )
    parser.add_argument('--attack-steps', type=int, default=10)
    parser.add_argument('--eot', type=int, help='default: 4 with fresh noise, else 1')
    parser.add_argument('--latents', type=int, default=256, help='of the autoencoder')
    parser.add_argument('--active', type=int, default=8, help='active latents of it')
    parser.add_argument('--sparse-steps', type=int, default=1000, help='of its fit')


def settings_of(args: argparse.Namespace) -> AnalysisSettings:
    """Settings that the flags ask for."""
    try:
        parts = [] if args.attack_eps == 'none' else args.attack_eps.split(',')
        eps = tuple(float(part) for part in parts)
    except ValueError:
        raise ValueError(
            f'--attack-eps {args.attack_eps} must be numbers in pixel units, with '
            'commas: 2,4; or none.'
        ) from None
    return AnalysisSettings(
        images=args.images,
        fit_images=args.fit_images,
        fit_from=args.fit_from,
        attack_images=args.attack_images,
        attack_eps=eps,
        attack_steps=args.attack_steps,
        eot=args.eot,
        batch_size=args.batch_size,
        latents=args.latents,
        active=args.active,
        sparse_steps=args.sparse_steps,
        seed=args.seed,
    )


def load_config(file: str, options: dict | None) -> Config:
    cfg = Config.fromfile(file)
    cfg.merge_from_dict(options or {})
    return cfg


def prior_request(
    args: argparse.Namespace, source: str, weights: str | None, cfg: Config | None
) -> PriorRequest:
    """A prior under analysis; its images are those of a config."""
    if cfg is None:
        raise ValueError(
            f'The prior {source} brings no images; give --data CONFIG, a config with '
            'train_dataloader and test_dataloader.'
        )
    if weights not in (None, 'random'):
        raise ValueError(
            f'{weights} is no weights of the prior {source}; leave it out for its own, '
            'or give the word random.'
        )
    return PriorRequest(
        source,
        cfg,
        args.taps,
        args.sigma or args.timestep or (),
        'sigma' if args.sigma else 'timestep',
        untrained=weights == 'random',
        condition=args.condition,
    )


def request_of(
    args: argparse.Namespace,
    what: list[str | None],
    layers: list[str],
    cfg: Config | None,
) -> ModelRequest | PriorRequest:
    """What is analysed, by the words on the command line.

    Args:
        args: All flags.
        what: Config and checkpoint, or prior and its weights.
        layers: Layers of a model.
        cfg: Config with the images of a prior.
    """
    source, weights = what
    if not str(source).endswith(CONFIGS):
        return prior_request(args, str(source), weights, cfg)
    if weights is None:
        raise ValueError(
            f'{Path(str(source)).name} needs a checkpoint: give one after it, or the '
            'word none for the weights that the config brings.'
        )
    own = cfg if source == args.config and cfg is not None else None
    return ModelRequest(own or load_config(source, args.cfg_options), weights, layers)


def analyse(args: argparse.Namespace) -> None:
    console = Console()
    MMLogger.get_instance('analyze_representation', log_level='WARNING')
    data = args.config if args.config.endswith(CONFIGS) else args.data
    with mistakes_in_a_sentence():
        cfg = None if data is None else load_config(data, args.cfg_options)
        request = request_of(args, [args.config, args.checkpoint], args.layer, cfg)
        compare = None
        if args.compare:
            if len(args.compare) > 2:
                raise ValueError('--compare takes CONFIG CKPT, or a prior: two words.')
            what = [*args.compare, None][:2]
            layers = args.compare_layer or args.layer
            compare = request_of(args, what, layers, cfg)
        run = RepresentationAnalysis(
            request,
            args.out,
            compare,
            args.measures,
            settings_of(args),
            args.minutes,
            args.fresh,
            Board(console),
        )
    results = run.run()
    for table in result_tables(results):
        console.print(table.to_rich())
    for note in notes(results):
        console.print(escape(note))
    console.print(f'written to {escape(args.out)}')


def main() -> None:
    args = parse_args()
    try:
        analyse(args)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'analyze_representation.py: {error}')
    except KeyboardInterrupt:
        sys.exit('analyze_representation.py: stopped; started again, it goes on.')


if __name__ == '__main__':
    main()
