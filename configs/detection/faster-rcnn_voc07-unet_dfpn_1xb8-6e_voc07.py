"""Faster R-CNN on a frozen prior of VOC photographs, 128 px."""

_base_ = [
    '../_base_/models/faster-rcnn_dfpn-c64.py',
    '../_base_/priors/voc07.py',
    '../_base_/datasets/voc07.py',
    '../_base_/schedules/adamw_6e.py',
    '../_base_/mmdiff_runtime.py',
]

model = dict(
    **_base_.pop('prior'),
    roi_head=dict(bbox_head=dict(num_classes=20)),
)
model['neck'].update(out_channels=64, out_strides=(4, 8, 16, 32))
