"""PGD-AT (Madry et al. 2018) of PreAct-ResNet-20 on CIFAR-10 in minutes."""

_base_ = [
    '../_base_/models/preact-resnet20.py',
    '../_base_/datasets/cifar10_folders_crop.py',
    '../_base_/schedules/sgd_2e_at.py',
    '../_base_/adversarial/pgd-3_linf8.py',
    '../_base_/mmdiff_cls_runtime.py',
]

model = dict(
    _delete_=True,
    type='mmdiff.AdversarialModel',
    model=_base_.model,
    attack=_base_.pop('attack'),
)
