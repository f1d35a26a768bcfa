"""Small ResNet detectors that know sixteen generated images, trained in a minute each.

They are good enough to be attacked, and small enough for hundreds of attacks on one
core. Trained once, with a seed, and kept in a folder.
"""

import copy
from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.hub import get_config
from mmengine.registry import DATASETS
from mmengine.runner import Runner, load_checkpoint
from torch import nn

from mmdiff.attacks.oracle.ground_truth import to_input_scale
from mmdiff.datasets.toy_shapes import CLASSES, make_toy_voc

CONFIGS = {
    'faster-rcnn': 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'retinanet': 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    'fcos': 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
}
NUM_IMAGES = 16
SIZE = 64  # of the files; models see them at twice that
STEPS = 400


def model_config(kind: str) -> dict:
    """A detector of mmdet, shrunk."""
    cfg = copy.deepcopy(get_config(CONFIGS[kind]).model)
    cfg.backbone.pop('init_cfg', None)
    cfg.backbone.update(
        depth=18,
        base_channels=16,
        frozen_stages=-1,
        norm_cfg={'type': 'BN', 'requires_grad': True},
        norm_eval=False,
    )
    cfg.neck.update(in_channels=[16, 32, 64, 128], out_channels=32)
    if kind == 'faster-rcnn':
        cfg.rpn_head.update(in_channels=32, feat_channels=32)
        cfg.rpn_head.anchor_generator.scales = [4]
        cfg.roi_head.bbox_roi_extractor.out_channels = 32
        cfg.roi_head.bbox_head.update(
            in_channels=32, fc_out_channels=64, num_classes=len(CLASSES)
        )
        cfg.train_cfg.rpn_proposal.update(nms_pre=200, max_per_img=100)
        cfg.test_cfg.rpn.update(nms_pre=200, max_per_img=100)
    else:
        cfg.bbox_head.update(
            in_channels=32,
            feat_channels=32,
            stacked_convs=2,
            num_classes=len(CLASSES),
        )
    if kind == 'fcos':
        cfg.bbox_head.norm_cfg = {'type': 'GN', 'num_groups': 8}
    return cfg


def dataset_config(root: Path) -> dict:
    """The sixteen images, enlarged: boxes of the file are not those of the input."""
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
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
            {'type': 'LoadAnnotations', 'with_bbox': True},
            {'type': 'PackDetInputs', 'meta_keys': keys},
        ],
    }


def make_runner(root: Path, kind: str, work_dir: Path, test_cfg: dict) -> Runner:
    """A Runner that tests a detector on the sixteen images."""
    cfg = {
        'model': model_config(kind),
        'work_dir': str(work_dir),
        'default_scope': 'mmdet',
        'test_dataloader': {
            'batch_size': 8,
            'num_workers': 0,
            'sampler': {'type': 'DefaultSampler', 'shuffle': False},
            'dataset': dataset_config(root),
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
        kind: Key of ``CONFIGS``.
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
    train(model, make_data(folder))
    torch.save({'state_dict': model.state_dict()}, path)
    return model.eval()


def train(model: nn.Module, root: Path) -> None:
    """Teach a detector the sixteen images."""
    dataset = DATASETS.build(dataset_config(root))
    images = [dataset[i] for i in range(len(dataset))]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, STEPS)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(STEPS):
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
