"""FCOS of oddefense (Li et al. 2023): ResNet-50 with ImageNet's mean and std in RGB.

It is not trained here:

python tools/convert_checkpoint.py oddefense fcos_at.pth CONFIG FILE.pth
"""

_base_ = 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'

custom_imports = dict(imports=['mmdiff'], allow_failed_imports=False)
randomness = dict(seed=0)
model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
    ),
    backbone=dict(style='pytorch', init_cfg=None),
    bbox_head=dict(
        norm_on_bbox=True,
        centerness_on_reg=True,
        dcn_on_last_conv=False,
        center_sampling=True,
        conv_bias=True,
        loss_bbox=dict(type='GIoULoss', loss_weight=1.0),
    ),
    test_cfg=dict(nms=dict(type='nms', iou_threshold=0.6)),
)
