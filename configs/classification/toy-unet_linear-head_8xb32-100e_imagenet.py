"""The shortest config: the shipped prior in mmpretrain's own ResNet-50 of ImageNet."""

_base_ = [
    'mmpretrain::resnet/resnet50_8xb32_in1k.py',
    '../_base_/priors/cls_toy-voc.py',
]
custom_imports = dict(imports=['mmdiff'], allow_failed_imports=False)
model = _base_.pop('prior')
