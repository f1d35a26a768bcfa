"""An attention head on the shipped prior, frozen: the quick start of classification."""

_base_ = [
    '../_base_/models/attention-head.py',
    '../_base_/priors/cls_toy-voc.py',
    '../_base_/datasets/toy_classes.py',
    '../_base_/schedules/adamw_5e_cls.py',
    '../_base_/mmdiff_cls_runtime.py',
]

model = dict(**_base_.pop('prior'))
model['head'].update(num_classes=6, pool=8)
