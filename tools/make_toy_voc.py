"""Generate the demo detection set in VOC layout."""

import argparse

from rich.progress import track

from mmdiff.datasets.toy_shapes import make_toy_voc


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', default='data/toy_voc', help='folder to make')
    parser.add_argument('--num-train', type=int, default=1200)
    parser.add_argument('--num-val', type=int, default=200)
    parser.add_argument('--size', type=int, default=128, help='height and width')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--small', action='store_true', help='more and smaller shapes')
    args = parser.parse_args()
    try:
        out = make_toy_voc(**vars(args), progress=lambda n: track(n, 'drawing'))
    except (ValueError, FileExistsError) as error:
        parser.error(str(error))
    print(f'{out}: {args.num_train} training and {args.num_val} validation images')


if __name__ == '__main__':
    main()
