"""The class-conditional prior of CIFAR-10, trained on at a constant rate.

Trained in stages: each starts from the exported weights of the one before, with new
optimizer state and a short warm-up; add up the images of the stages (their cards count
steps and images a step). The aim is 2 million; the rate is to fall in the last stage
only. A stage starts from weights by

    --cfg-options model.model.source=mmdiff::cifar10_patch2
"""

_base_ = './unet-patch2_1xb64-3600it_cifar10.py'

model = dict(autocast=None, num_levels=4)
# An average from the first step on: the weights that a stage starts from are good.
custom_hooks = [
    dict(
        type='EMAHook',
        ema_type='ExponentialMovingAverage',
        momentum=0.001,
        update_buffers=False,
    ),
]
train_cfg = dict(max_iters=28_000, val_interval=2000)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=200),
]
