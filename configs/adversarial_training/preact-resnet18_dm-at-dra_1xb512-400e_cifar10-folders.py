"""DM-AT with diffusion representation alignment (Huang et al. 2026)."""

_base_ = [
    './preact-resnet18_dm-at_1xb512-400e_cifar10-folders.py',
    '../_base_/adversarial/dra_cifar10.py',
]

model = dict(
    _delete_=True,
    type='mmdiff.AlignedModel',
    model=_base_.model,
    **_base_.pop('alignment'),
)
