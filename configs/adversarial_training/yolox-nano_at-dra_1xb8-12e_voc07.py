"""PGD-AT of YOLOX-Nano with dense alignment (DRA)."""

_base_ = ['./yolox-nano_at_1xb8-12e_voc07.py', '../_base_/adversarial/dra_voc07.py']

model = dict(
    _delete_=True,
    type='mmdiff.AlignedModel',
    model=_base_.model,
    **_base_.pop('alignment'),
)
model['alignment'].update(in_channels=64)
