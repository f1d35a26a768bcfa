"""TRADES (Zhang et al. 2019) of PreAct-ResNet-18 on CIFAR-100."""

_base_ = [
    '../_base_/models/preact-resnet18.py',
    '../_base_/datasets/cifar100_crop.py',
    '../_base_/schedules/sgd_50e_at.py',
    '../_base_/adversarial/pgd-10_linf8.py',
    '../_base_/mmdiff_cls_runtime.py',
]

classifier = _base_.model
classifier.data_preprocessor = _base_.data_preprocessor
classifier.head.num_classes = 100
model = dict(
    _delete_=True,
    type='mmdiff.AdversarialModel',
    model=classifier,
    attack=dict(**_base_.pop('attack'), objective='kl'),
    loss=dict(type='mmdiff.TRADESLoss', beta=6.0),
)
del classifier
