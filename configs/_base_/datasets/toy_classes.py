"""The generated set of classes (python tools/make_toy_classes.py), 64 px."""

_base_ = './class_folders.py'

where = dict(
    data_root='data/toy_classes',
    classes=('disk', 'square', 'triangle', 'star', 'ring', 'cross'),
)
train_dataloader = dict(batch_size=32, dataset=where)
val_dataloader = dict(batch_size=32, dataset=where)
test_dataloader = val_dataloader
del where
