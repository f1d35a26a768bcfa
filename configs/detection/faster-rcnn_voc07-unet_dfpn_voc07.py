"""Faster R-CNN on a frozen prior of VOC photographs, 128 px."""

_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    '../_base_/priors/voc07.py',
    '../_base_/datasets/voc07.py',
    '../_base_/schedules/voc07.py',
    '../_base_/mmdiff_runtime.py',
]

out_strides = (4, 8, 16, 32)
model = dict(
    data_preprocessor=_base_.prior_preprocessor,
    backbone=dict(_delete_=True, **_base_.prior_backbone),
    neck=dict(_delete_=True, **_base_.prior_neck, out_strides=out_strides),
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        anchor_generator=dict(scales=[5], strides=out_strides),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(
            out_channels=64,
            finest_scale=28,
            roi_layer=dict(sampling_ratio=2),
        ),
        # Boxes share their regression and convolutions: learns in few iterations.
        bbox_head=dict(
            type='ConvFCBBoxHead',
            num_shared_convs=2,
            num_shared_fcs=1,
            conv_out_channels=64,
            in_channels=64,
            fc_out_channels=256,
            num_classes=20,
            reg_class_agnostic=True,
        ),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=300, max_per_img=150),
        rcnn=dict(sampler=dict(num=64, pos_fraction=0.5)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100)),
)
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(max_keep_ckpts=1))
randomness = dict(seed=0)
