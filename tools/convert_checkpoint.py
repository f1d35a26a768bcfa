"""Convert a published checkpoint to what a config can name.

Priors (adm, edm) become folders, robust ImageNet backbones (robust-resnet,
robust-convnext) and detectors (oddefense) become checkpoints of mm models.
"""

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
    add_robust(kinds)
    args = parser.parse_args()
    if args.kind == 'edm':
        if (args.state_dict is None) != (args.config is None):
            edm.error('--state-dict and --config belong together')
        if len(args.paths) != (2 if args.state_dict is None else 1):
            edm.error('give PKL OUT, or OUT alone with --state-dict and --config')
        *pickle, args.out = args.paths
        args.source = args.state_dict or pickle[0]
    return args


def add_robust(kinds: argparse._SubParsersAction) -> None:
    """Add the commands for weights of adversarial training."""
    known = {
        'robust-resnet': 'a ResNet of MadryLab (Salman et al. 2020) or ARES',
        'robust-convnext': 'a ConvNeXt of Singh et al. (2023) or ARES',
    }
    for name, what in known.items():
        kind = kinds.add_parser(name, help=what)
        kind.add_argument('source', metavar='FILE', help='the published file')
        kind.add_argument('out', metavar='OUT', help='FILE.pth to write')
        kind.add_argument(
            '--normalization',
            metavar='NAME',
            help='imagenet or none, of files that do not say how images are normalised',
        )
        kind.add_argument(
            '--key', metavar='NAME', help='which of several sets of weights in FILE'
        )
        kind.add_argument(
            '--config',
            metavar='CONFIG',
            help='config that is to start from the weights, to be compared with them',
        )
    detector = kinds.add_parser(
        'oddefense', help='a detector of oddefense (mmdet 2), for mmdet 3'
    )
    detector.add_argument('source', metavar='FILE', help='the published file')
    detector.add_argument('config', metavar='CONFIG', help='its config for mmdet 3')
    detector.add_argument('out', metavar='OUT', help='FILE.pth to write')


def convert_robust(args: argparse.Namespace) -> None:
    """Convert weights of adversarial training, and print what a config needs."""
    # Not above: priors are converted without waiting for mm packages.
    from mmdiff.engine import robust_weights

    if args.kind == 'oddefense':
        done = robust_weights.convert_detector(args.source, args.config, args.out)
        print(f'{args.out}: {done.origin}, {len(done.state)} tensors.')
        print(f'Next: python tools/test.py {args.config} {args.out} --attack quick')
        return
    convert = {
        'robust-resnet': robust_weights.convert_resnet,
        'robust-convnext': robust_weights.convert_convnext,
    }[args.kind]
    done = convert(args.source, args.out, args.normalization, args.key, args.config)
    head = 'with' if done.has_head else 'without'
    print(
        f'{args.out}: {done.origin}, {len(done.state)} tensors, {head} a head. It '
        f'expects {done.preprocessing} of 0..255:'
    )
    for name, classifies in (('classifier', True), ('detector', False)):
        settings = done.preprocessing.config(classifies)
        print(f'  {name}: data_preprocessor={as_call(settings)}')
    if done.anew:
        print(f'Not among them, and trained anew: {", ".join(done.anew)}.')
    init = {'type': 'Pretrained', 'checkpoint': args.out, 'prefix': 'backbone.'}
    print(f'Next: backbone={as_call({**done.backbone, "init_cfg": init})}')


def as_call(settings: dict) -> str:
    """Settings as configs write them.

    Example:
        >>> as_call({'type': 'ResNet', 'arch': {'depths': [1, 2]}})
        "dict(type='ResNet', arch=dict(depths=[1, 2]))"
    """
    parts = []
    for key, value in settings.items():
        text = as_call(value) if isinstance(value, dict) else repr(value)
        parts.append(f'{key}={text}')
    return f'dict({", ".join(parts)})'


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
        if args.kind not in ('adm', 'edm'):
            convert_robust(args)
            return
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
