"""How a detector of an existing mmdet project gets the backbone: three lines.

The shipped prior stands for the prior of your images; `print(backbone.feature_info)`
shows what to fill into the neck.
"""

_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['mmdiff'], allow_failed_imports=False)

model = dict(
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3, pad_size_divisor=32),
    backbone=dict(
        _delete_=True,
        type='mmdiff.DiffusionUNet',
        model='mmdiff::toy_voc',
        timestep=10,
        out_indices=('down.0.0', 'down.1.0', 'up.1', 'up.0', 'mid'),
    ),
    neck=dict(
        _delete_=True,
        type='mmdiff.DiffusionFPN',
        in_channels=[64, 96, 128, 128, 128],
        in_strides=[4, 8, 8, 16, 32],
    ),
)
