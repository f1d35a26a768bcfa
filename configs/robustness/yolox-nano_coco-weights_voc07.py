"""YOLOX-Nano as trained on COCO, with VOC's 20 classes of its 80, on VOC07 at 320 px.

It is not trained here. Its weights are made of a COCO checkpoint by
tools/benchmarks/coco_to_voc.py.
"""

_base_ = [
    '../_base_/models/yolox-nano.py',
    '../_base_/datasets/voc07_320px.py',
    '../_base_/schedules/adamw_12e.py',
    '../_base_/mmdiff_runtime.py',
]
