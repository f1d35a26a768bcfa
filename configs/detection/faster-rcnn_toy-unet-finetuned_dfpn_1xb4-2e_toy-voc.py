"""The shipped prior as a start: the U-Net trains along, at a tenth of the rate."""

_base_ = './faster-rcnn_toy-unet_dfpn_1xb4-2e_toy-voc.py'

model = dict(backbone=dict(frozen=False))
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.1)}),
)
