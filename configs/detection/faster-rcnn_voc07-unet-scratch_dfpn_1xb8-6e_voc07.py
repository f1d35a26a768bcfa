"""The baseline: the same network from random weights, trained with supervision."""

_base_ = './faster-rcnn_voc07-unet_dfpn_1xb8-6e_voc07.py'

model = dict(
    backbone=dict(
        model=dict(random_weights=True),
        frozen=False,
        timestep=0,
        noise='none',
    )
)
