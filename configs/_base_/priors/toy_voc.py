"""The shipped prior of the demo set as backbone, and a neck that fits it."""

_base_ = './unet_inputs.py'

prior = dict(
    backbone=dict(
        _delete_=True,
        type='mmdiff.DiffusionUNet',
        model=dict(source='mmdiff::toy_voc'),
        timestep=250,
        out_indices=('down.0.0', 'down.1.0', 'up.1', 'up.0', 'mid'),
    ),
    neck=dict(
        _delete_=True,
        type='mmdiff.DiffusionFPN',
        in_channels=[64, 96, 128, 128, 128],
        in_strides=[4, 8, 8, 16, 32],
    ),
)
