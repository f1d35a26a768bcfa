"""PASCAL VOC 2007 at 320 px, padded to squares of grey, as YOLOX pads."""

_base_ = './voc07_256px.py'

train_dataloader = _base_.train_dataloader
val_dataloader = _base_.val_dataloader
square = dict(type='Pad', pad_to_square=True, pad_val=dict(img=(114.0, 114.0, 114.0)))
for pipeline in (train_dataloader.dataset.pipeline, val_dataloader.dataset.pipeline):
    for step in pipeline:
        if step.type == 'Resize':
            step.scale = (320, 320)
train_dataloader.dataset.pipeline.insert(-1, square)
val_dataloader.dataset.pipeline.insert(2, square)
test_dataloader = val_dataloader
del square, pipeline, step
