"""Faster R-CNN on the shipped prior, frozen: the quick start."""

_base_ = [
    '../_base_/models/faster-rcnn_dfpn-c64.py',
    '../_base_/priors/toy_voc.py',
    '../_base_/datasets/toy_voc.py',
    '../_base_/schedules/adamw_2e.py',
    '../_base_/mmdiff_runtime.py',
]

model = dict(
    data_preprocessor=_base_.prior_preprocessor,
    backbone=dict(_delete_=True, **_base_.prior_backbone),
    neck=_base_.prior_neck,
    roi_head=dict(bbox_head=dict(num_classes=6)),
)
optim_wrapper = dict(optimizer=dict(lr=1.5e-3))
auto_scale_lr = dict(base_batch_size=4)
