"""mmdet's COCO, shorter side at 512 px: for another size change `image_scale`."""

_base_ = 'mmdet::_base_/datasets/coco_detection.py'

image_scale = (853, 512)

train_pipeline = _base_.train_pipeline
test_pipeline = _base_.test_pipeline
for step in train_pipeline + test_pipeline:
    if step.type == 'Resize':
        step.scale = image_scale
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
del image_scale, step
