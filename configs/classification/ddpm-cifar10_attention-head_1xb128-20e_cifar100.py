"""An attention head for CIFAR-100 on frozen google/ddpm-cifar10-32."""

_base_ = [
    '../_base_/models/attention-head.py',
    '../_base_/priors/cls_ddpm-cifar10.py',
    '../_base_/datasets/cifar100.py',
    '../_base_/schedules/sgd_20e_cls.py',
    '../_base_/mmdiff_cls_runtime.py',
]

model = dict(**_base_.pop('prior'))
model['data_preprocessor'].update(to_rgb=False)  # the set's pixels are RGB
model['head'].update(num_classes=100)
