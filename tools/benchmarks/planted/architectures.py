"""Configs of mmdet, shrunk until a detector trains in a minute on one core."""

import copy

from mmengine.config import Config
from mmengine.hub import get_config

from mmdiff.datasets.toy_shapes import CLASSES

CONFIGS = {
    'faster-rcnn': 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco',
    'retinanet': 'retinanet/retinanet_r50_fpn_1x_coco',
    'fcos': 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco',
    'mask-rcnn': 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco',
    'gfl': 'gfl/gfl_r50_fpn_1x_coco',
    'yolox': 'yolox/yolox_tiny_8xb8-300e_coco',
    'rtmdet': 'rtmdet/rtmdet_tiny_8xb32-300e_coco',
    'dino': 'dino/dino-4scale_r50_8xb2-12e_coco',
    'ddq': 'ddq/ddq-detr-4scale_r50_8xb2-12e_coco',
}
# Of the neck, and of what comes after it.
CHANNELS = 32
# The same of transformers: their heads share it.
WIDTH = 64


def model_config(kind: str) -> Config:
    """A detector of mmdet, shrunk.

    Args:
        kind: Key of :data:`CONFIGS`.
    """
    cfg = copy.deepcopy(get_config(f'mmdet::{CONFIGS[kind]}.py').model)
    cfg.backbone.pop('init_cfg', None)
    if kind in ('yolox', 'rtmdet'):
        _shrink_yolo(cfg)
        return cfg
    cfg.backbone.update(
        depth=18,
        base_channels=16,
        frozen_stages=-1,
        norm_cfg={'type': 'BN', 'requires_grad': True},
        norm_eval=False,
    )
    if kind in ('dino', 'ddq'):
        _shrink_detr(cfg)
        return cfg
    cfg.neck.update(in_channels=[16, 32, 64, 128], out_channels=CHANNELS)
    if kind in ('faster-rcnn', 'mask-rcnn'):
        _shrink_rcnn(cfg)
        return cfg
    cfg.bbox_head.update(
        in_channels=CHANNELS,
        feat_channels=CHANNELS,
        stacked_convs=2,
        num_classes=len(CLASSES),
    )
    if kind in ('fcos', 'gfl'):
        cfg.bbox_head.norm_cfg = {'type': 'GN', 'num_groups': 8}
    return cfg


def _shrink_rcnn(cfg: Config) -> None:
    cfg.rpn_head.update(in_channels=CHANNELS, feat_channels=CHANNELS)
    cfg.rpn_head.anchor_generator.scales = [4]
    cfg.roi_head.bbox_roi_extractor.out_channels = CHANNELS
    cfg.roi_head.bbox_head.update(
        in_channels=CHANNELS, fc_out_channels=64, num_classes=len(CLASSES)
    )
    if 'mask_head' in cfg.roi_head:
        cfg.roi_head.mask_roi_extractor.out_channels = CHANNELS
        cfg.roi_head.mask_head.update(
            in_channels=CHANNELS,
            conv_out_channels=CHANNELS,
            num_convs=1,
            num_classes=len(CLASSES),
        )
    cfg.train_cfg.rpn_proposal.update(nms_pre=200, max_per_img=100)
    cfg.test_cfg.rpn.update(nms_pre=200, max_per_img=100)


def _shrink_yolo(cfg: Config) -> None:
    """Of YOLOX and RTMDet, the depth of its tiny one and half its least width."""
    norm = {'type': 'BN', 'momentum': 0.1, 'eps': 0.001}
    cfg.data_preprocessor.batch_augments = None
    cfg.backbone.update(deepen_factor=0.167, widen_factor=0.125, norm_cfg=norm)
    cfg.neck.update(
        in_channels=[32, 64, 128],
        out_channels=CHANNELS,
        num_csp_blocks=1,
        norm_cfg=norm,
    )
    cfg.bbox_head.update(
        in_channels=CHANNELS,
        feat_channels=CHANNELS,
        num_classes=len(CLASSES),
        norm_cfg=norm,
    )


def _shrink_detr(cfg: Config) -> None:
    """Of DINO and DDQ: one layer of an encoder, two of a decoder, a few queries."""
    cfg.num_queries = 30
    cfg.neck.update(
        in_channels=[32, 64, 128],
        out_channels=WIDTH,
        norm_cfg={'type': 'GN', 'num_groups': 8},
    )
    for part, layers in ((cfg.encoder, 1), (cfg.decoder, 2)):
        part.num_layers = layers
        for name, layer in part.layer_cfg.items():
            layer.embed_dims = WIDTH
            if name == 'ffn_cfg':
                layer.feedforward_channels = 2 * WIDTH
    cfg.positional_encoding.num_feats = WIDTH // 2
    cfg.bbox_head.update(num_classes=len(CLASSES), embed_dims=WIDTH)
    cfg.dn_cfg.group_cfg.num_dn_queries = 20
    cfg.test_cfg.max_per_img = 30
