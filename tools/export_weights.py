"""Write the weights of the bare model, without what trained it."""

import argparse
import sys

from mmdiff.engine import export_weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('checkpoint', help='checkpoint of an adversarial training')
    parser.add_argument('out', help='FILE.pth or FILE.safetensors')
    args = parser.parse_args()
    try:
        count = export_weights(args.checkpoint, args.out)
    except (ValueError, OSError) as error:
        sys.exit(f'export_weights.py: {error}')
    print(f'{count} tensors of the bare model, written to {args.out}')


if __name__ == '__main__':
    main()
