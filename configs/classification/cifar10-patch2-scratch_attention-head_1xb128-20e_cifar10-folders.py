"""The baseline: the same network from random weights, trained with supervision.

It sees the clean image: noise would only take from it.
"""

_base_ = './cifar10-patch2_attention-head_1xb128-20e_cifar10-folders.py'

model = dict(
    backbone=dict(
        model=dict(random_weights=True),
        frozen=False,
        timestep=0,
        noise='none',
    )
)
