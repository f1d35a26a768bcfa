"""The shipped prior of the demo set in a classifier of images of 64 px.

The tap is a layer of the decoder at stride 8: 8 x 8 tokens for an attention head.
"""

_base_ = './cls_inputs.py'

prior = dict(
    backbone=dict(
        _delete_=True,
        type='mmdiff.DiffusionUNet',
        model=dict(source='mmdiff::toy_voc'),
        timestep=10,
        out_indices=('up.2.0',),
    ),
    head=dict(in_channels=96),
)
