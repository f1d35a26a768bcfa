"""YOLOX-Nano on clean VOC07 at 320 px, beside the robust ones."""

_base_ = [
    '../_base_/models/yolox-nano.py',
    '../_base_/datasets/voc07_320px.py',
    '../_base_/schedules/adamw_12e.py',
    '../_base_/mmdiff_runtime.py',
]

# Made by tools/benchmarks/coco_to_voc.py.
load_from = 'checkpoints/yolox_nano_voc20.pth'
custom_hooks = [dict(type='mmdiff.NormEvalHook')]
