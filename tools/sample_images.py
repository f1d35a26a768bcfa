"""Draw images from a diffusion prior; call again to go on where it stopped."""

import argparse
import sys

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mmdiff import DiffusionModel
from mmdiff.diffusion import generate_images


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', help='folder, hub id or mmdiff::NAME of the prior')
    parser.add_argument('--num', type=int, required=True, help='number of images')
    parser.add_argument('--out', required=True, help='a folder, or FILE.npz')
    parser.add_argument(
        '--class-balanced', action='store_true', help='classes in turn, not at random'
    )
    parser.add_argument('--size', type=int, help='side in pixels (that of training)')
    parser.add_argument('--steps', type=int, default=50, help='denoising steps')
    parser.add_argument(
        '--guidance', type=float, default=1.0, help='classifier-free guidance; 1: none'
    )
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--dtype', choices=['float32', 'bfloat16'], default='float32')
    parser.add_argument(
        '--device', default='cuda' if torch.cuda.is_available() else 'cpu'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    columns = (
        TextColumn('sampling'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    try:
        model = DiffusionModel.from_pretrained(args.source, dtype=args.dtype)
        model = model.to(args.device)
        with Progress(*columns) as bar:
            task = bar.add_task('', total=args.num)
            drawn = generate_images(
                model,
                args.num,
                args.out,
                size=args.size,
                batch_size=args.batch_size,
                steps=args.steps,
                seed=args.seed,
                class_balanced=args.class_balanced,
                guidance=args.guidance,
                progress=lambda done: bar.update(task, completed=done),
            )
    except (ValueError, TypeError, OSError, ImportError) as error:
        sys.exit(f'sample_images.py: {error}')
    print(f'{drawn} of {args.num} images drawn now, written to {args.out}')


if __name__ == '__main__':
    main()
