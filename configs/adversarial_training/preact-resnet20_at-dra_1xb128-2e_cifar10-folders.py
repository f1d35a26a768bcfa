"""PGD-AT in minutes, with diffusion representation alignment."""

_base_ = [
    './preact-resnet20_at_1xb128-2e_cifar10-folders.py',
    '../_base_/adversarial/dra_cifar10.py',
]

model = dict(
    _delete_=True,
    type='mmdiff.AlignedModel',
    model=_base_.model,
    **_base_.pop('alignment'),
)
model['alignment'].update(in_channels=64)
