"""Faster R-CNN on EDM's frozen prior of CIFAR-10, VOC photographs at 128 px."""

_base_ = [
    '../_base_/models/faster-rcnn_dfpn-c64.py',
    '../_base_/priors/edm-cifar10.py',
    '../_base_/datasets/voc07.py',
    '../_base_/schedules/adamw_2e.py',
    '../_base_/mmdiff_runtime.py',
]

model = dict(
    data_preprocessor=_base_.prior_preprocessor,
    backbone=dict(_delete_=True, **_base_.prior_backbone),
    neck=_base_.prior_neck,
    roi_head=dict(bbox_head=dict(num_classes=20)),
)
