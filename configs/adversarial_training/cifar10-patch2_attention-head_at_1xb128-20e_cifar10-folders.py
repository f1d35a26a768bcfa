"""The attention head on the frozen prior, trained on adversarial images of 1/255."""

_base_ = [
    '../classification/cifar10-patch2_attention-head_1xb128-20e_cifar10-folders.py',
    '../_base_/adversarial/pgd-2_linf1.py',
]

model = dict(
    _delete_=True,
    type='mmdiff.AdversarialModel',
    model=_base_.model,
    attack=_base_.pop('attack'),
)
