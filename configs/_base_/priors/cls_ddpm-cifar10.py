"""google/ddpm-cifar10-32 in a classifier, as Yagoda et al. (2025) take it.

The first down block, at timestep 10. 36 M parameters, fetched from the hub once.
"""

_base_ = './cls_inputs.py'

prior = dict(
    backbone=dict(
        _delete_=True,
        type='mmdiff.DiffusionUNet',
        model=dict(source='google/ddpm-cifar10-32'),
        timestep=10,
        out_indices=('down.0',),
    ),
    head=dict(in_channels=128),
)
