"""The project's prior of CIFAR-10 as a classifier, on class folders.

It is not trained: python tools/test.py CONFIG none [--attack NAME].
"""

_base_ = [
    '../_base_/datasets/cifar10_folders.py',
    '../_base_/mmdiff_cls_runtime.py',
]

model = dict(
    type='mmdiff.DiffusionClassifier',
    model=dict(source='mmdiff::cifar10_patch2'),
    num_classes=10,
    levels=dict(num_levels=50, weighting='log_normal'),
    elimination=True,
)
# A batch is 500 passes of the U-Net for each image.
test_dataloader = dict(batch_size=16)
test_cfg = dict()
# Nothing is trained.
train_dataloader = val_dataloader = val_evaluator = None
