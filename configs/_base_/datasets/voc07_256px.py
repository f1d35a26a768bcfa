"""PASCAL VOC 2007 as in voc07.py, at 256 px: for another size change `image_scale`."""

_base_ = './voc07.py'

image_scale = (256, 256)

train_dataloader = _base_.train_dataloader
val_dataloader = _base_.val_dataloader
for step in train_dataloader.dataset.pipeline + val_dataloader.dataset.pipeline:
    if step.type == 'Resize':
        step.scale = image_scale
test_dataloader = val_dataloader
del image_scale, step
