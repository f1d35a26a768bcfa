"""The project's prior of VOC photographs (weights/voc07_patch4), and a neck for it."""

_base_ = './unet_inputs.py'

prior = dict(
    backbone=dict(
        _delete_=True,
        type='mmdiff.DiffusionUNet',
        model=dict(source='mmdiff::voc07_patch4'),
        timestep=50,
        out_indices=('down.0.0', 'down.1.0', 'up.1', 'up.0', 'mid'),
    ),
    neck=dict(
        _delete_=True,
        type='mmdiff.DiffusionFPN',
        in_channels=[64, 96, 192, 256, 256],
        in_strides=[4, 8, 8, 16, 32],
    ),
)
