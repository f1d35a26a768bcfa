"""CIFAR-100 as mmpretrain reads it (it downloads the archive), flipped at random."""

_base_ = 'mmpretrain::_base_/datasets/cifar100_bs16.py'

# Pixels are RGB already, unlike those of image files. It fills what a model leaves out.
data_preprocessor = dict(
    num_classes=100,
    mean=[127.5, 127.5, 127.5],
    std=[127.5, 127.5, 127.5],
    to_rgb=False,
)
train_dataloader = dict(
    batch_size=128,
    dataset=dict(
        pipeline=[
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs'),
        ]
    ),
)
val_dataloader = dict(batch_size=128)
test_dataloader = dict(batch_size=128)
