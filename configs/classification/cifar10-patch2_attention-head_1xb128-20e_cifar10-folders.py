"""The attention head on the project's frozen prior of CIFAR-10, as class folders."""

_base_ = [
    '../_base_/models/attention-head.py',
    '../_base_/priors/cls_cifar10-patch2.py',
    '../_base_/datasets/cifar10_folders.py',
    '../_base_/schedules/adamw_20e_cls.py',
    '../_base_/mmdiff_cls_runtime.py',
]

model = dict(**_base_.pop('prior'))
model['head'].update(pool=8)
