"""Faster R-CNN of oddefense (Li et al. 2023) with ConvNeXt-T.

It is not trained here: tools/convert_checkpoint.py oddefense frcnn_convnext.pth CONFIG
FILE.pth. That with ResNet-50 is mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py.
"""

_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'

custom_imports = dict(imports=['mmdiff'], allow_failed_imports=False)
randomness = dict(seed=0)
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.ConvNeXt',
        arch='tiny',
        out_indices=[0, 1, 2, 3],
        layer_scale_init_value=1.0,
        gap_before_final_norm=False,
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
