"""Keep the 20 classes of VOC of a dense detector that was trained on COCO's 80."""

import argparse
from pathlib import Path

import torch
from mmdet.datasets import CocoDataset, VOCDataset
from safetensors.torch import load_file

from mmdiff.utils.files import whole_file

# What VOC calls otherwise.
COCO_NAMES = {
    'aeroplane': 'airplane',
    'diningtable': 'dining table',
    'motorbike': 'motorcycle',
    'pottedplant': 'potted plant',
    'sofa': 'couch',
    'tvmonitor': 'tv',
}


def rows_of_voc() -> list[int]:
    """Numbers of VOC's classes among COCO's, in VOC's order."""
    coco = CocoDataset.METAINFO['classes']
    voc = VOCDataset.METAINFO['classes']
    return [coco.index(COCO_NAMES.get(name, name)) for name in voc]


def keep_classes(state: dict, rows: list[int], layer: str) -> dict:
    """Keep some rows of the layers that score classes.

    Args:
        state: State dict of the detector.
        rows: Rows to keep, one a class.
        layer: Part of the names of these layers.

    Raises:
        ValueError: If no layer has that name, or one has not as many rows.
    """
    scoring = [name for name in state if layer in name]
    if not scoring:
        raise ValueError(f'No weights are called {layer}; give --layer.')
    for name in scoring:
        if len(state[name]) != len(CocoDataset.METAINFO['classes']):
            raise ValueError(
                f'{name} has {len(state[name])} rows, not one for each class of COCO.'
            )
    return {k: v[rows] if k in scoring else v for k, v in state.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', type=Path, metavar='COCO.safetensors')
    parser.add_argument('out', type=Path, metavar='OUT.pth')
    parser.add_argument(
        '--layer',
        default='bbox_head.multi_level_conv_cls.',
        help='part of the names of the layers that score classes (default: YOLOX)',
    )
    args = parser.parse_args()
    if not args.source.is_file():
        parser.error(f'there is no file {args.source}')
    try:
        state = keep_classes(load_file(args.source), rows_of_voc(), args.layer)
    except ValueError as error:
        parser.error(str(error))
    meta = {'dataset_meta': {'classes': VOCDataset.METAINFO['classes']}}
    with whole_file(args.out) as partial:
        torch.save({'meta': meta, 'state_dict': state}, partial)
    print(f'{args.out}: {len(state)} tensors, {len(rows_of_voc())} classes')


if __name__ == '__main__':
    main()
