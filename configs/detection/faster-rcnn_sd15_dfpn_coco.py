"""mmdet's Faster R-CNN on frozen Stable Diffusion 1.5, at its own 512 px."""

_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    '../_base_/priors/sd15.py',
    '../_base_/mmdiff_runtime.py',
]

model = dict(
    data_preprocessor=_base_.prior_preprocessor,
    backbone=dict(_delete_=True, **_base_.prior_backbone),
    neck=dict(_delete_=True, **_base_.prior_neck),
)

train_pipeline = _base_.train_pipeline
test_pipeline = _base_.test_pipeline
train_pipeline[2].scale = test_pipeline[1].scale = (853, 512)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
