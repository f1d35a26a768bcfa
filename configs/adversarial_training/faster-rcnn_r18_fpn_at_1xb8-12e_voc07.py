"""PGD-AT of Faster R-CNN (ResNet-18): all losses on adversarial images, Linf 4/255."""

_base_ = [
    './faster-rcnn_r18_fpn_1xb8-12e_voc07.py',
    '../_base_/adversarial/pgd-4_linf4.py',
]

model = dict(
    _delete_=True,
    type='mmdiff.AdversarialModel',
    model=_base_.model,
    attack=_base_.pop('attack'),
)
