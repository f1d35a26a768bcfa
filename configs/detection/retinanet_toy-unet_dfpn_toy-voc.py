"""RetinaNet on the shipped prior, frozen."""

_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    '../_base_/priors/toy_voc.py',
    '../_base_/datasets/toy_voc.py',
    '../_base_/schedules/adamw_2e.py',
    '../_base_/mmdiff_runtime.py',
]

out_strides = (4, 8, 16, 32)
model = dict(
    data_preprocessor=_base_.prior_preprocessor,
    backbone=dict(_delete_=True, **_base_.prior_backbone),
    neck=dict(_delete_=True, **_base_.prior_neck, out_strides=out_strides),
    bbox_head=dict(
        num_classes=6,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        anchor_generator=dict(strides=out_strides),
    ),
)
auto_scale_lr = dict(base_batch_size=4)
