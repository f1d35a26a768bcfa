"""Faster R-CNN on a frozen prior of VOC photographs, 128 px."""

_base_ = [
    '../_base_/models/faster-rcnn_dfpn-c64.py',
    '../_base_/priors/voc07.py',
    '../_base_/datasets/voc07.py',
    '../_base_/schedules/adamw_6e.py',
    '../_base_/mmdiff_runtime.py',
]

model = dict(
    data_preprocessor=_base_.prior_preprocessor,
    backbone=dict(_delete_=True, **_base_.prior_backbone),
    neck=_base_.prior_neck,
    roi_head=dict(bbox_head=dict(num_classes=20)),
)
