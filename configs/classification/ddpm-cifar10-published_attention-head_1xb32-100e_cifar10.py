"""The attention head of "Diffusion Models are Robust Pretrainers", as published.

The flaws stay in: images in [0, 1] for a prior of [-1, 1], one fresh noise for all
images of a batch, training batches that are never shuffled, nothing flipped. The config
without `-published` does none of this.

Attack it as published with `--attack paper_robust_pretrainers`, and with `--attack pgd
--attack-options eot=16` to see what a gradient of one draw hides.
"""

_base_ = [
    '../_base_/models/attention-head.py',
    '../_base_/priors/cls_ddpm-cifar10-published.py',
    '../_base_/datasets/cifar10_published.py',
    '../_base_/schedules/sgd_100e_cls.py',
    '../_base_/mmdiff_cls_runtime.py',
]

model = dict(**_base_.pop('prior'))
model['data_preprocessor'].update(to_rgb=False)  # the set's pixels are RGB
