"""CIFAR-10 as the code of Robust Pretrainers reads it: in the order of its files.

Images are in [0, 1] and not flipped, and every epoch sees the same batches.
"""

_base_ = './cifar10.py'

data_preprocessor = dict(mean=[0, 0, 0], std=[255, 255, 255])
train_dataloader = dict(
    batch_size=32,
    sampler=dict(shuffle=False),
    dataset=dict(pipeline=[dict(type='PackInputs')]),
)
