"""What a diffusion classifier costs: memory of its exact gradient, passes to predict.

The gradient of an attack (of the margin of a batch, by the oracle that attacks ask: the
cross-entropy is flat where a class is sure) is taken once, in a process that has done
nothing before, and what it adds to the memory of the process is noted. Predictions are
made twice, by all K x T passes and with classes eliminated; beside passes and seconds
stands on how many images both agree.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch
from mmengine.fileio import list_dir_or_file
from mmpretrain.structures import DataSample
from timing import Machine, added_memory, report
from torchvision.io import ImageReadMode, read_image

from mmdiff import DiffusionClassifier
from mmdiff.attacks import AttackStats, oracle_of

TINY = dict(
    type='UNet2DModel',
    block_out_channels=(4, 8),
    down_block_types=('DownBlock2D',) * 2,
    up_block_types=('UpBlock2D',) * 2,
    norm_num_groups=2,
    sample_size=32,
    num_class_embeds=3,
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--prior', default='mmdiff::cifar10_patch2', help='or tiny')
    parser.add_argument('--data', type=Path, help='class folders; else random images')
    parser.add_argument('--levels', type=int, default=126, help='T')
    parser.add_argument('--weighting', default='log_normal')
    parser.add_argument('--chunk-size', type=int, default=64)
    parser.add_argument('--batch', type=int, default=8, help='images of one gradient')
    parser.add_argument('--images', type=int, default=16, help='to predict')
    parser.add_argument('--out', type=Path, help='JSON file to write')
    parser.add_argument('--gradient-only', action='store_true', help=argparse.SUPPRESS)
    return parser.parse_args()


def make(args: argparse.Namespace, elimination: bool = False) -> DiffusionClassifier:
    """The classifier of the arguments, on the device that there is."""
    torch.manual_seed(0)
    model = DiffusionClassifier(
        TINY if args.prior == 'tiny' else args.prior,
        levels=dict(num_levels=args.levels, weighting=args.weighting),
        chunk_size=args.chunk_size,
        elimination=elimination,
    ).eval()
    return model.to('cuda' if torch.cuda.is_available() else 'cpu')


def load(args: argparse.Namespace, count: int, classes: int) -> dict:
    """A batch as a dataloader gives it: images of 0..255 in BGR, classes in turn."""
    images, samples = [], []
    folders = []
    if args.data is not None:
        names = list_dir_or_file(args.data, list_dir=True, list_file=False)
        folders = sorted(args.data / name for name in names)
    generator = torch.Generator().manual_seed(0)
    for i in range(count):
        label = i % classes
        if folders:
            file = sorted(folders[label].iterdir())[i // classes]
            images.append(read_image(str(file), ImageReadMode.RGB).flip(0))
        else:
            shape = 3, 32, 32
            images.append(torch.randint(0, 256, shape, generator=generator).byte())
        samples.append(DataSample().set_gt_label(label))
    return {'inputs': images, 'data_samples': samples}


def take_gradient(args: argparse.Namespace) -> tuple[float, float]:
    """Seconds of one gradient of a batch, and the MiB that it adds at its peak."""
    model = make(args)
    oracle = oracle_of(model)
    group = oracle.gather(load(args, args.batch, oracle.num_classes))
    question = oracle.ask(group, AttackStats(), lambda *choice: 0, 'cw')

    def run() -> None:
        with oracle.attacked():
            grads, _ = question.gradients(group.pixels, 0, 0)
        if not all(grad.any() for grad in grads):
            raise RuntimeError('A gradient is zero: nothing was measured.')

    start = time.perf_counter()
    memory = added_memory(run)
    return time.perf_counter() - start, memory


def predict(args: argparse.Namespace, elimination: bool) -> tuple[float, list, list]:
    """Seconds, labels and passes of the U-Net of each image."""
    model = make(args, elimination)
    data = load(args, args.images, model.prior.num_classes)
    start = time.perf_counter()
    results = model.test_step(data)
    labels = [int(sample.pred_label) for sample in results]
    calls = [int(sample.unet_calls) for sample in results]
    return time.perf_counter() - start, labels, calls


def gradient_elsewhere() -> tuple[float, float]:
    """What :func:`take_gradient` gives in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], '--gradient-only']
    output = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, memory = output.stdout.split()[-2:]
    return float(seconds), float(memory)


def main() -> None:
    args = parse_args()
    if args.gradient_only:
        print(*take_gradient(args))
        return
    machine = Machine.here()
    seconds, memory = gradient_elsewhere()
    ways = {name: predict(args, name == 'eliminated') for name in ('all', 'eliminated')}
    _, labels, passes = ways['all']
    rows = [
        {
            'what': f'gradient of {args.batch} images, T = {args.levels}',
            'passes an image': f'{passes[0]}, forward twice and backward',
            's an image': f'{seconds / args.batch:.1f}',
            'more': f'{memory / 1024:.2f} GiB added at the peak',
        }
    ]
    raw = {'gradient': {'seconds': seconds, 'MiB': memory}}
    for name, (spent, predicted, calls) in ways.items():
        same = sum(one == other for one, other in zip(predicted, labels))
        share = sum(calls) / sum(passes)
        mean = sum(calls) / len(calls)
        rows.append(
            {
                'what': f'prediction, {name} classes',
                'passes an image': f'{mean:.0f} ({min(calls)} to {max(calls)})',
                's an image': f'{spent / args.images:.1f}',
                'more': f'{share:.3f} of the passes, class of all on {same} of '
                f'{args.images}',
            }
        )
        raw[name] = {
            'seconds': spent,
            'labels': predicted,
            'calls': calls,
            'share': share,
        }
    raw['truth'] = [i % make(args).prior.num_classes for i in range(args.images)]
    report(f'{args.prior}, chunks of {args.chunk_size}', rows, machine, raw, args.out)


if __name__ == '__main__':
    main()
