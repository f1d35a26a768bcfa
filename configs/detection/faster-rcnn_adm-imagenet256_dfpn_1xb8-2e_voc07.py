"""Faster R-CNN on the frozen ADM of ImageNet, at its own 256 px."""

_base_ = [
    '../_base_/models/faster-rcnn_dfpn-c64.py',
    '../_base_/priors/adm-imagenet256.py',
    '../_base_/datasets/voc07_256px.py',
    '../_base_/schedules/adamw_2e.py',
    '../_base_/mmdiff_runtime.py',
]

model = dict(
    **_base_.pop('prior'),
    rpn_head=dict(anchor_generator=dict(scales=[8])),
    roi_head=dict(
        bbox_roi_extractor=dict(finest_scale=56), bbox_head=dict(num_classes=20)
    ),
)
model['neck'].update(out_channels=64, out_strides=(4, 8, 16, 32))
