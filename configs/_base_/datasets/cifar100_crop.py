"""CIFAR-100 as mmpretrain reads it (it downloads the archive); pixels are RGB."""

_base_ = 'mmpretrain::_base_/datasets/cifar100_bs16.py'

train_dataloader = dict(batch_size=128)
val_dataloader = dict(batch_size=128)
test_dataloader = dict(batch_size=128)
