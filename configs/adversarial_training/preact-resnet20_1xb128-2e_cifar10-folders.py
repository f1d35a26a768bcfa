"""PreAct-ResNet-20 on clean CIFAR-10, beside the robust ones."""

_base_ = [
    '../_base_/models/preact-resnet20.py',
    '../_base_/datasets/cifar10_folders_crop.py',
    '../_base_/schedules/sgd_2e_at.py',
    '../_base_/mmdiff_cls_runtime.py',
]
