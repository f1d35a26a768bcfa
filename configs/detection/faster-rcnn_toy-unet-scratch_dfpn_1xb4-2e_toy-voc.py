"""The baseline: the same network from random weights, trained with supervision.

It sees the clean image: noise would only take from it.
"""

_base_ = './faster-rcnn_toy-unet_dfpn_1xb4-2e_toy-voc.py'

model = dict(
    backbone=dict(
        model=dict(random_weights=True),
        frozen=False,
        timestep=0,
        noise='none',
    )
)
