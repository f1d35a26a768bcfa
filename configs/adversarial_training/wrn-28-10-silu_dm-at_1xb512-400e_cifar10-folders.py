"""DM-AT (Wang et al. 2023): TRADES with images of a prior, WRN-28-10 with SiLU."""

_base_ = [
    '../_base_/models/wrn-28-10-silu.py',
    '../_base_/datasets/cifar10_folders_generated.py',
    '../_base_/schedules/sgd_400e_dm-at.py',
    '../_base_/adversarial/pgd-10_linf8.py',
    '../_base_/mmdiff_cls_runtime.py',
]

model = dict(
    _delete_=True,
    type='mmdiff.AdversarialModel',
    model=_base_.model,
    attack=dict(**_base_.pop('attack'), objective='kl'),
    loss=dict(type='mmdiff.TRADESLoss', beta=5.0, label_smoothing=0.1),
    bn_mode='batch',
)
