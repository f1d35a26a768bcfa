"""Keep the images of a prior that a classifier is most sure of, and label them."""

import argparse
import sys

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from mmdiff.engine.image_filter import Choice, filter_images


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=f'{__doc__} Of each class the most confident share is kept; with '
        'the labels of the prior, no image that the classifier takes for another '
        'class. A run that was killed goes on when it is started again.'
    )
    parser.add_argument(
        'images', help='what tools/sample_images.py wrote: folder, .npz'
    )
    parser.add_argument('config', help='config of a classifier of mmpretrain')
    parser.add_argument('checkpoint', help='its weights')
    parser.add_argument('--out', required=True, help='a folder, or FILE.npz')
    parser.add_argument(
        '--keep', type=float, default=0.5, help='share of each class (0.5)'
    )
    parser.add_argument(
        '--labels',
        choices=['prior', 'classifier'],
        help='whose classes the images get; default: of the prior, if there are any',
    )
    parser.add_argument(
        '--device', default='cuda' if torch.cuda.is_available() else 'cpu'
    )
    return parser.parse_args()


def show(choice: Choice, out: str) -> None:
    """Print how many images of each class are kept."""
    console = Console(highlight=False)
    table = Table('class', 'drawn', 'agreed', 'kept')
    for label, row in enumerate(zip(choice.drawn, choice.agreed, choice.kept)):
        table.add_row(str(label), *map(str, row))
    console.print(table)
    console.print(f'{choice.balance()} Written to {out}', soft_wrap=True)


def main() -> None:
    args = parse_args()
    try:
        with Progress(transient=True) as bar:
            task = bar.add_task('classifying', total=None)
            choice = filter_images(
                args.images,
                args.config,
                args.checkpoint,
                args.out,
                args.keep,
                args.labels,
                args.device,
                lambda done: bar.update(task, completed=done),
            )
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f'filter_images.py: {error}')
    show(choice, args.out)


if __name__ == '__main__':
    main()
