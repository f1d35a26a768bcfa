"""Write backbone and neck of a model as a graph: ONNX, or a program of torch.export.

The graph takes images as the model's preprocessor leaves them, of one size, and gives
the features that its head gets. It is run on another image and compared with the model.
"""

import argparse
import sys
from pathlib import Path

import torch
from mmdet.utils import register_all_modules
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint

from mmdiff.engine.feature_export import FeatureGraph, check_target, export_features
from mmdiff.utils.configs import mistakes_in_a_sentence


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config')
    parser.add_argument('checkpoint', nargs='?', help='without it, weights as built')
    parser.add_argument('--out', type=Path, required=True, help='FILE.onnx or FILE.pt2')
    parser.add_argument(
        '--size', type=int, nargs='+', default=[256], help='height and width in pixels'
    )
    parser.add_argument('--batch', type=int, default=1, help='images in one call')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    return parser.parse_args()


def build_graph(args: argparse.Namespace) -> FeatureGraph:
    """Build the model of a config, and say what its graph takes."""
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    register_all_modules(init_default_scope=False)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    with mistakes_in_a_sentence():
        model = MODELS.build(cfg.model)
    if args.checkpoint:
        load_checkpoint(model, args.checkpoint, map_location='cpu')
    inputs = model.data_preprocessor
    if getattr(inputs, 'mean', None) is not None:
        mean, std = inputs.mean.flatten().tolist(), inputs.std.flatten().tolist()
        # mmdet's name of it, and mmpretrain's.
        flags = '_channel_conversion', 'to_rgb'
        turned = any(getattr(inputs, flag, False) for flag in flags)
        order = 'channels in reverse order, ' if turned else ''
        print(f'image: {order}less {mean}, over {std}, padded to --size')
    return FeatureGraph(model)


def main() -> None:
    args = parse_args()
    try:
        check_target(args.out)
        if len(args.size) > 2:
            raise ValueError('--size takes height and width, or one side of a square.')
        graph = build_graph(args)
        height, width = args.size[0], args.size[-1]
        image = torch.rand(args.batch, 3, height, width) * 2 - 1
        difference = export_features(graph, args.out, image)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f'export_features.py: {error}')
    for number, feature in enumerate(graph(image)):
        print(f'output {number}: {tuple(feature.shape)}')
    if difference is None:
        print(f'{args.out}: written, not run: onnxruntime is not installed')
    else:
        print(f'{args.out}: differs from the model by {difference:.1e} of its largest')


if __name__ == '__main__':
    main()
