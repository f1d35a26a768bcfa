"""ConvNeXt-T with convolutional stem for detectors, from robust weights of ImageNet.

Singh et al. 2023, Linf 4/255, https://github.com/nmndeep/revisiting-at:

python tools/convert_checkpoint.py robust-convnext convnext_tiny_cvst_robust.pt \\
    data/robust/convnext-tiny_linf4.pth

They expect RGB in 0..1, not ImageNet's mean and std.
"""

robust_start = dict(
    data_preprocessor=dict(mean=[0, 0, 0], std=[255, 255, 255], bgr_to_rgb=True),
    backbone=dict(
        _delete_=True,
        type='mmdiff.ConvStemConvNeXt',
        arch='tiny',
        stem_channels=(48, 96),
        out_indices=[0, 1, 2, 3],
        gap_before_final_norm=False,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='data/robust/convnext-tiny_linf4.pth',
            prefix='backbone.',
        ),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
