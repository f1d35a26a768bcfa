"""The VOC prior as a start: the U-Net trains along, at a fifth of the rate."""

_base_ = './faster-rcnn_voc07-unet_dfpn_1xb8-6e_voc07.py'

model = dict(backbone=dict(frozen=False))
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.2)}),
)
