"""ConvNeXt-T + ConvStem of Singh et al. (2023) on ImageNet, images in 0..1.

It is not trained here:

python tools/convert_checkpoint.py robust-convnext convnext_tiny_cvst_robust.pt FILE.pth

Published: 72.7 % clean, 49.5 % under AutoAttack at Linf 4/255.
"""

_base_ = [
    'mmpretrain::_base_/models/convnext/convnext-tiny.py',
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py',
    '../_base_/mmdiff_cls_runtime.py',
]

data_preprocessor = dict(mean=[0, 0, 0], std=[255, 255, 255])
model = dict(
    backbone=dict(
        type='mmdiff.ConvStemConvNeXt', stem_channels=(48, 96), drop_path_rate=0.0
    ),
    train_cfg=None,
)
