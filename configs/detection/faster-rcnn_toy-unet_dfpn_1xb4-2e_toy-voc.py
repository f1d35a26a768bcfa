"""Faster R-CNN on the shipped prior, frozen: the quick start."""

_base_ = [
    '../_base_/models/faster-rcnn_dfpn-c64.py',
    '../_base_/priors/toy_voc.py',
    '../_base_/datasets/toy_voc.py',
    '../_base_/schedules/adamw_2e.py',
    '../_base_/mmdiff_runtime.py',
]

model = dict(
    **_base_.pop('prior'),
    roi_head=dict(bbox_head=dict(num_classes=6)),
)
model['neck'].update(out_channels=64, out_strides=(4, 8, 16, 32))
optim_wrapper = dict(optimizer=dict(lr=1.5e-3))
auto_scale_lr = dict(base_batch_size=4)
