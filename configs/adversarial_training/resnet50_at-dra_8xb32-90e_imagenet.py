"""PGD-AT of ResNet-50 with diffusion representation alignment."""

_base_ = [
    './resnet50_at_8xb32-90e_imagenet.py',
    '../_base_/adversarial/dra_imagenet.py',
]

model = dict(
    _delete_=True,
    type='mmdiff.AlignedModel',
    model=_base_.model,
    **_base_.pop('alignment'),
)
