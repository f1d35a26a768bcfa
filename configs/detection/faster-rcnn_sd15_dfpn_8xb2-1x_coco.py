"""mmdet's Faster R-CNN on frozen Stable Diffusion 1.5, at its own 512 px."""

_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    '../_base_/datasets/coco_512px.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    '../_base_/priors/sd15.py',
    '../_base_/mmdiff_runtime.py',
]

model = _base_.pop('prior')
