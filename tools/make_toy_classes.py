"""Generate the demo set of classes: one shape in each image, in class folders."""

import argparse

from rich.progress import track

from mmdiff.datasets.toy_classes import make_toy_classes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', default='data/toy_classes', help='folder to make')
    parser.add_argument('--num-train', type=int, default=1800)
    parser.add_argument('--num-val', type=int, default=600)
    parser.add_argument('--size', type=int, default=64, help='height and width')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    try:
        out = make_toy_classes(**vars(args), progress=lambda n: track(n, 'drawing'))
    except (ValueError, FileExistsError) as error:
        parser.error(str(error))
    print(f'{out}: {args.num_train} training and {args.num_val} validation images')


if __name__ == '__main__':
    main()
