"""The project's prior of CIFAR-10 (weights/cifar10_patch2) in a classifier.

It is class-conditional, and asked without a class (10).
"""

_base_ = './cls_inputs.py'

prior = dict(
    backbone=dict(
        _delete_=True,
        type='mmdiff.DiffusionUNet',
        model=dict(source='mmdiff::cifar10_patch2'),
        condition=10,
        timestep=200,
        out_indices=('up.1',),
    ),
    head=dict(in_channels=128),
)
