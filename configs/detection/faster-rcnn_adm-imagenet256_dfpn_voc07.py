"""Faster R-CNN on the frozen ADM of ImageNet, at its own 256 px."""

_base_ = [
    '../_base_/models/faster-rcnn_dfpn-c64.py',
    '../_base_/priors/adm-imagenet256.py',
    '../_base_/datasets/voc07.py',
    '../_base_/schedules/adamw_2e.py',
    '../_base_/mmdiff_runtime.py',
]

model = dict(
    data_preprocessor=_base_.prior_preprocessor,
    backbone=dict(_delete_=True, **_base_.prior_backbone),
    neck=_base_.prior_neck,
    rpn_head=dict(anchor_generator=dict(scales=[8])),
    roi_head=dict(
        bbox_roi_extractor=dict(finest_scale=56), bbox_head=dict(num_classes=20)
    ),
)

train_pipeline = _base_.train_dataloader.dataset.pipeline
test_pipeline = _base_.val_dataloader.dataset.pipeline
train_pipeline[2].scale = test_pipeline[1].scale = (256, 256)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
