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
# The stem sees 0..255: its weights are a hundredth of others, and so are its steps.
optim_wrapper = dict(
    optimizer=dict(lr=1e-4),
    paramwise_cfg=dict(custom_keys={'backbone.stem': dict(lr_mult=0.01)}),
)
