"""One pass for all classes: heads distilled from the project's prior of CIFAR-10.

Data, as class folders: data/cifar10/train/{airplane,...}/*.jpg (and minitest).
"""

_base_ = '../pretrain/unet-patch2_1xb64-3600it_cifar10.py'

model = dict(
    _delete_=True,
    type='mmdiff.MultiHeadDistiller',
    model=dict(source='mmdiff::cifar10_patch2'),
    heads_per_step=2,  # a step costs little more than one of ordinary training
    data_preprocessor=_base_.model.data_preprocessor,
)
train_cfg = dict(max_iters=10000, val_interval=2000)
# The rate falls over the second half.
param_scheduler = _base_.param_scheduler
param_scheduler[-1].update(begin=5000, end=10000)
