"""A linear head on frozen ADM-256, by the protocol of diffssl."""

_base_ = [
    '../_base_/models/linear-head.py',
    '../_base_/priors/cls_adm-imagenet256.py',
    '../_base_/datasets/imagenet_256px.py',
    '../_base_/schedules/sgd_28e_cls.py',
    '../_base_/mmdiff_cls_runtime.py',
]

model = dict(**_base_.pop('prior'))
model['head'].update(num_classes=1000, pool=2, topk=(1, 5))
