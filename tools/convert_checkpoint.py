"""Convert a published checkpoint (ADM, EDM) to a folder that a config can name."""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmdiff import DiffusionModel
from mmdiff.diffusion.converters import convert_adm, convert_edm
from mmdiff.diffusion.converters.adm import PRESETS


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = parser.add_subparsers(dest='kind', required=True)
    adm = kinds.add_parser('adm', help='a .pt of guided-diffusion')
    adm.add_argument('source', metavar='CKPT', help='state dict, as 256x256_*.pt')
    adm.add_argument('out', metavar='OUT', help='folder to write')
    flags = adm.add_mutually_exclusive_group()
    flags.add_argument(
        '--preset',
        metavar='NAME',
        help=f'which released model it is ({", ".join(PRESETS)}); left out, the shapes '
        'of its weights tell if they can',
    )
    flags.add_argument(
        '--config', metavar='FILE.json', help="guided-diffusion's flags of other models"
    )
    edm = kinds.add_parser(
        'edm',
        help='a .pkl of EDM, or its state dict',
        usage='%(prog)s PKL OUT | %(prog)s --state-dict FILE.pt --config FILE.json OUT',
    )
    edm.add_argument('paths', nargs='+', metavar='PATH', help='PKL OUT, or OUT alone')
    edm.add_argument('--state-dict', metavar='FILE.pt', help='in place of PKL')
    edm.add_argument(
        '--config', metavar='FILE.json', help='arguments of EDMPrecond, by name'
    )
    args = parser.parse_args()
    if args.kind == 'edm':
        if (args.state_dict is None) != (args.config is None):
            edm.error('--state-dict and --config belong together')
        if len(args.paths) != (2 if args.state_dict is None else 1):
            edm.error('give PKL OUT, or OUT alone with --state-dict and --config')
        *pickle, args.out = args.paths
        args.source = args.state_dict or pickle[0]
    return args


def describe(out: str) -> None:
    """Print what a config needs to know about a prior."""
    model = DiffusionModel.from_pretrained(out)
    console = Console(highlight=False)
    count = sum(value.numel() for value in model.parameters())
    classes = f', {model.num_classes} classes' if model.num_classes else ''
    console.print(
        f'{out}: {count:,} parameters, time is a {model.time_unit}{classes}. Taps:',
        soft_wrap=True,
    )
    table = Table('name', 'channels', 'stride')
    for info in model.feature_info:
        table.add_row(info.name, str(info.channels), str(info.stride))
    console.print(table)
    console.print(f'Next: in a config, model=dict(source={out!r}).', soft_wrap=True)


def main() -> None:
    args = parse_args()
    try:
        if args.kind == 'adm':
            preset = convert_adm(args.source, args.out, args.preset, args.config)
            print(f'Converted as {preset}.')
        else:
            convert_edm(args.source, args.out, args.config)
        describe(args.out)
    except (ValueError, TypeError, OSError, ImportError) as error:
        sys.exit(f'{Path(__file__).name}: {error}')


if __name__ == '__main__':
    main()
