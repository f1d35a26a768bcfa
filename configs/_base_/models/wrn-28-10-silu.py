"""WRN-28-10 with SiLU, the network of DM-AT (Wang et al. 2023)."""

_base_ = './preact-resnet18.py'

model = dict(
    backbone=dict(
        stem_channels=16,
        widths=(160, 320, 640),
        blocks=(4, 4, 4),
        act_cfg=dict(type='SiLU', inplace=True),
    ),
    head=dict(in_channels=640),
)
