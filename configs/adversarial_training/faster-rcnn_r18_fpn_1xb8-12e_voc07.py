"""Faster R-CNN (ResNet-18) on clean VOC07 at 320 px, beside the robust ones."""

_base_ = [
    '../_base_/models/faster-rcnn_r18_fpn.py',
    '../_base_/datasets/voc07_320px.py',
    '../_base_/schedules/adamw_12e.py',
    '../_base_/mmdiff_runtime.py',
]
