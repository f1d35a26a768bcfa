"""Small detectors that know sixteen generated images, trained in minutes.

They are good enough to be attacked, and small enough for hundreds of attacks on one
core. Trained once, with a seed, and kept in a folder.
"""

from pathlib import Path

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet.registry import MODELS, TRANSFORMS
from mmdet.structures.mask import BitmapMasks
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS
from mmengine.runner import Runner, load_checkpoint
from torch import nn

from mmdiff.attacks.oracle.ground_truth import to_input_scale
from mmdiff.datasets.toy_shapes import CLASSES, make_toy_voc

from .architectures import model_config

NUM_IMAGES = 16
SIZE = 64  # of the files; models see them at twice that
PADDED = 160  # of what models see, where the pipeline pads
STEPS = 400
# Targets of these follow predictions, and queries learn slowly where to look.
LONGER = {'rtmdet': 800, 'dino': 600}
RATES = {'dino': 1e-3}
MASKED = ('mask-rcnn',)


@TRANSFORMS.register_module()
class MasksOfBoxes(BaseTransform):
    """Every object fills its box: the images have no masks of their own."""

    def transform(self, results: dict) -> dict:
        height, width = results['ori_shape']
        masks = np.zeros((len(results['gt_bboxes']), height, width), np.uint8)
        boxes = results['gt_bboxes'].tensor.round().int().tolist()
        for mask, (left, top, right, bottom) in zip(masks, boxes):
            mask[top:bottom, left:right] = 1
        results['gt_masks'] = BitmapMasks(masks, height, width)
        return results


def dataset_config(root: Path, masks: bool = False, padded: bool = False) -> dict:
    """The sixteen images, enlarged: boxes of the file are not those of the input.

    Args:
        root: Folder of the images.
        masks: Whether objects have masks.
        padded: Whether the pipeline pads images to a larger square.
    """
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    padding = {'type': 'Pad', 'size': (PADDED, PADDED), 'pad_val': {'img': (114,) * 3}}
    return {
        'type': 'VOCDataset',
        'data_root': str(root),
        'ann_file': 'ImageSets/Main/val.txt',
        'data_prefix': {'sub_data_root': ''},
        'metainfo': {'classes': CLASSES},
        'test_mode': True,
        'pipeline': [
            {'type': 'LoadImageFromFile'},
            {'type': 'Resize', 'scale': (2 * SIZE, 2 * SIZE), 'keep_ratio': True},
            *([padding] if padded else []),
            {'type': 'LoadAnnotations', 'with_bbox': True},
            *([{'type': 'MasksOfBoxes'}] if masks else []),
            {'type': 'PackDetInputs', 'meta_keys': keys},
        ],
    }


def make_runner(
    root: Path, kind: str, work_dir: Path, test_cfg: dict, padded: bool = False
) -> Runner:
    """A Runner that tests a detector on the sixteen images."""
    cfg = {
        'model': model_config(kind),
        'work_dir': str(work_dir),
        'default_scope': 'mmdet',
        'test_dataloader': {
            'batch_size': 8,
            'num_workers': 0,
            'sampler': {'type': 'DefaultSampler', 'shuffle': False},
            'dataset': dataset_config(root, kind in MASKED, padded),
        },
        'test_cfg': test_cfg,
        'test_evaluator': {'type': 'VOCMetric', 'metric': 'mAP', 'eval_mode': 'area'},
        'visualizer': {'type': 'DetLocalVisualizer', 'vis_backends': []},
        'log_level': 'WARNING',
        'randomness': {'seed': 0},
        'experiment_name': work_dir.name,
    }
    return Runner.from_cfg(Config(cfg))


def make_data(folder: Path) -> Path:
    """Draw the images, once."""
    return make_toy_voc(folder / 'toy_voc_64', 1, NUM_IMAGES, size=SIZE)


def trained(kind: str, folder: Path) -> nn.Module:
    """Read a detector, or train it.

    Args:
        kind: Key of :data:`~.architectures.CONFIGS`.
        folder: Where weights and images are kept.
    """
    register_all_modules(init_default_scope=True)
    torch.manual_seed(0)
    model = MODELS.build(model_config(kind))
    path = folder / f'{kind}.pth'
    if path.is_file():
        load_checkpoint(model, str(path), map_location='cpu')
        return model.eval()
    model.init_weights()
    train(model, kind, make_data(folder))
    torch.save({'state_dict': model.state_dict()}, path)
    return model.eval()


def train(model: nn.Module, kind: str, root: Path) -> None:
    """Teach a detector the sixteen images."""
    dataset = DATASETS.build(dataset_config(root, kind in MASKED))
    images = [dataset[i] for i in range(len(dataset))]
    steps, rate = LONGER.get(kind, STEPS), RATES.get(kind, 2e-3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(steps):
        chosen = torch.randperm(len(images), generator=generator)[:8].tolist()
        batch = pseudo_collate([images[i] for i in chosen])
        samples = [to_input_scale(s, 'original') for s in batch['data_samples']]
        data = {'inputs': batch['inputs'], 'data_samples': samples}
        data = model.data_preprocessor(data, training=True)
        loss, _ = model.parse_losses(model(**data, mode='loss'))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimizer.step()
        schedule.step()
