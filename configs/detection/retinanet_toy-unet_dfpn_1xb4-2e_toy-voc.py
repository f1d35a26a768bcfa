"""RetinaNet on the shipped prior, frozen."""

_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    '../_base_/priors/toy_voc.py',
    '../_base_/datasets/toy_voc.py',
    '../_base_/schedules/adamw_2e.py',
    '../_base_/mmdiff_runtime.py',
]

model = dict(
    **_base_.pop('prior'),
    bbox_head=dict(
        num_classes=6,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        anchor_generator=dict(strides=(4, 8, 16, 32)),
    ),
)
model['neck'].update(out_channels=64, out_strides=(4, 8, 16, 32))
auto_scale_lr = dict(base_batch_size=4)
