"""PGD-AT of ResNet-50 on ImageNet, Linf 4/255 (as Salman et al. 2020 train)."""

_base_ = [
    'mmpretrain::_base_/models/resnet50.py',
    'mmpretrain::_base_/datasets/imagenet_bs32.py',
    'mmpretrain::_base_/schedules/imagenet_bs256.py',
    '../_base_/adversarial/pgd-3_linf4.py',
    '../_base_/mmdiff_cls_runtime.py',
]

train_cfg = dict(max_epochs=90)
model = dict(
    _delete_=True,
    type='mmdiff.AdversarialModel',
    model=_base_.model,
    attack=_base_.pop('attack'),
)
