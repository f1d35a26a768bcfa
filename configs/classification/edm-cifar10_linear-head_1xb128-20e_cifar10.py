"""A linear head on a frozen EDM prior of CIFAR-10."""

_base_ = [
    '../_base_/models/linear-head.py',
    '../_base_/priors/cls_edm-cifar10.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/sgd_20e_cls.py',
    '../_base_/mmdiff_cls_runtime.py',
]

model = dict(**_base_.pop('prior'))
model['data_preprocessor'].update(to_rgb=False)  # the set's pixels are RGB
