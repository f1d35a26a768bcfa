"""PGD-AT (Madry et al. 2018) of PreAct-ResNet-18 on CIFAR-10 as class folders."""

_base_ = [
    '../_base_/models/preact-resnet18.py',
    '../_base_/datasets/cifar10_folders_crop.py',
    '../_base_/schedules/sgd_50e_at.py',
    '../_base_/adversarial/pgd-10_linf8.py',
    '../_base_/mmdiff_cls_runtime.py',
]

model = dict(
    _delete_=True,
    type='mmdiff.AdversarialModel',
    model=_base_.model,
    attack=_base_.pop('attack'),
)
