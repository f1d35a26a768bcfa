"""As fcos_r50_fpn_gn-head_oddefense_coco.py, with ConvNeXt-T."""

_base_ = './fcos_r50_fpn_gn-head_oddefense_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.ConvNeXt',
        arch='tiny',
        out_indices=[0, 1, 2, 3],
        layer_scale_init_value=1.0,
        gap_before_final_norm=False,
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
