"""The baseline: the same network from random weights, trained with supervision.

It sees the clean image: noise would only take from it.
"""

_base_ = './toy-unet_attention-head_1xb32-5e_toy-classes.py'

model = dict(
    backbone=dict(
        model=dict(random_weights=True),
        frozen=False,
        timestep=0,
        noise='none',
    )
)
