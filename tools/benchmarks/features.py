"""Features of a prior that stop at the deepest tap, beside the usual ways to get them.

The usual ways run the whole U-Net and pick values up on the way: forward hooks on
diffusers' own model (as repositories of diffusion features do), and torchvision's
feature extractor where it can trace the network. Time, FLOPs and peak memory of each.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from timing import Machine, added_memory, clock, count_flops, in_turns, report
from torch import Tensor
from torchvision.models.feature_extraction import create_feature_extractor

from mmdiff import DiffusionModel

# A U-Net like that of google/ddpm-cifar10-32, of which weights change no time.
DDPM = dict(
    type='UNet2DModel',
    sample_size=32,
    block_out_channels=(128, 256, 256, 256),
    down_block_types=('DownBlock2D', 'AttnDownBlock2D', 'DownBlock2D', 'DownBlock2D'),
    up_block_types=('UpBlock2D', 'UpBlock2D', 'AttnUpBlock2D', 'UpBlock2D'),
    attention_head_dim=None,
    downsample_padding=0,
    flip_sin_to_cos=False,
    freq_shift=1,
    norm_eps=1e-6,
)
TINY = dict(
    DDPM, block_out_channels=(8, 8, 8, 8), norm_num_groups=4, layers_per_block=1
)
PRIORS = {'ddpm-cifar10': DDPM, 'tiny': TINY}
TAPS = {
    'down': ('down.0', 'down.1', 'down.2', 'down.3'),
    'mid': ('mid',),
    'up.1': ('up.1',),
    'all': (
        *(f'down.{i}' for i in range(4)),
        'mid',
        *(f'up.{i}' for i in range(4)),
    ),
}
TIME = 50


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--prior', choices=PRIORS, default='ddpm-cifar10')
    parser.add_argument('--size', type=int, default=32, help='side of the images')
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--out', type=Path, help='JSON file to write')
    parser.add_argument('--taps', choices=TAPS, nargs='+', default=list(TAPS))
    parser.add_argument('--memory-of', help=argparse.SUPPRESS)
    return parser.parse_args()


def make(args: argparse.Namespace) -> tuple[DiffusionModel, Tensor]:
    """A frozen prior with random weights, and images."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.manual_seed(0)
    model = DiffusionModel.from_pretrained(PRIORS[args.prior])
    x = torch.randn(args.batch, 3, args.size, args.size, device=device)
    return model.requires_grad_(False).to(device), x


def hooked(model: DiffusionModel, taps: Sequence[str]) -> Callable:
    """The whole forward of diffusers, with hooks on blocks."""
    unet, kept = model.unet, {}

    def keep(name: str) -> Callable:
        return lambda module, inputs, output: kept.update({name: output})

    for name in taps:
        side, _, number = name.partition('.')
        block = unet.mid_block
        if number:
            block = getattr(unet, f'{side}_blocks')[int(number)]
        block.register_forward_hook(keep(name))

    def run(x: Tensor) -> dict[str, Tensor]:
        unet(x, torch.full((len(x),), TIME, device=x.device))
        return kept

    return run


def traced(model: DiffusionModel, taps: Sequence[str]) -> Callable | str:
    """Torchvision's extractor, or why there is none."""
    nodes = [
        'mid_block' if name == 'mid' else name.replace('.', '_blocks.') for name in taps
    ]
    try:
        extractor = create_feature_extractor(model.unet, nodes)
    except Exception as error:
        return type(error).__name__
    return lambda x: extractor(x, torch.full((len(x),), TIME, device=x.device))


def cut_off(model: DiffusionModel, taps: Sequence[str]) -> Callable:
    """What this package does."""
    return lambda x: model.features(
        x, torch.full((len(x),), TIME, device=x.device), taps
    )


WAYS = {'hooks': hooked, 'torchvision': traced, 'mmdiff': cut_off}


def contender(
    args: argparse.Namespace, taps: Sequence[str], name: str
) -> Callable | str:
    """A function without arguments; a string is why there is none."""
    model, x = make(args)
    way = WAYS[name](model, taps)
    return way if isinstance(way, str) else bind(way, x)


def bind(way: Callable, x: Tensor) -> Callable:
    """Call a way without gradients."""

    def run() -> object:
        with torch.no_grad():
            return way(x)

    return run


def memory_of(args: argparse.Namespace, tap: str, name: str) -> float:
    """What one pass adds to the peak of a process of its own, in MiB."""
    command = [sys.executable, __file__, '--prior', args.prior, '--taps', tap]
    command += ['--size', str(args.size), '--batch', str(args.batch)]
    output = subprocess.run(
        [*command, '--memory-of', name], check=True, capture_output=True, text=True
    )
    return float(output.stdout.split()[-1])


def compare(args: argparse.Namespace, tap: str) -> tuple[list[dict], dict]:
    """Rows of a table for one set of taps, and their raw numbers."""
    ways = {name: contender(args, TAPS[tap], name) for name in WAYS}
    runnable = {name: way for name, way in ways.items() if callable(way)}
    flops = {name: count_flops(way) for name, way in runnable.items()}
    times = in_turns(runnable, args.rounds, clock())
    rows = []
    for name, way in ways.items():
        row = {'taps': tap, 'way': name, 'ms': str(way), 'of hooks': '', 'FLOPs': ''}
        if name in times:
            share = times[name].median / times['hooks'].median
            row['ms'] = str(type(times[name])([1e3 * s for s in times[name].seconds]))
            row['of hooks'] = f'{share:.2f}'
            row['FLOPs'] = f'{flops[name] / flops["hooks"]:.2f}'
        more = f'{memory_of(args, tap, name):.0f}' if name in times else ''
        rows.append({**row, 'MiB': more})
    raw = {
        name: {'seconds': timing.seconds, 'flops': flops[name]}
        for name, timing in times.items()
    }
    return rows, {tap: raw}


def main() -> None:
    args = parse_args()
    if args.memory_of:  # in a process of its own
        run = contender(args, TAPS[args.taps[0]], args.memory_of)
        print(added_memory(run))
        return
    machine, rows, raw = Machine.here(), [], {}
    for tap in args.taps:
        more, numbers = compare(args, tap)
        rows += more
        raw.update(numbers)
    title = f'{args.prior}, {args.batch} images of {args.size} px, {args.rounds} rounds'
    report(title, rows, machine, {'seconds': raw}, args.out)


if __name__ == '__main__':
    main()
