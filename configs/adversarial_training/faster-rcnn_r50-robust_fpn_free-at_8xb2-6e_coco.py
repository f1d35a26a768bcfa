"""Fine-tuning of Faster R-CNN by FreeAT from a robust ResNet-50 (Li et al. 2023).

The recipe of oddefense, but for its clipping of each sample's loss.
"""

_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    '../_base_/schedules/adamw_6e_oddefense.py',
    '../_base_/robust_starts/resnet50.py',
    '../_base_/adversarial/pgd-4_linf4.py',
    '../_base_/mmdiff_runtime.py',
]

_base_.model.backbone.init_cfg = _base_.pop('robust_start')
model = dict(
    _delete_=True,
    type='mmdiff.AdversarialModel',
    model=_base_.model,
    attack=_base_.pop('attack'),
    loss=dict(type='mmdiff.FreeATLoss', replays=4),
)
model_wrapper_cfg = dict(type='mmdiff.ReplayedDataParallel')  # of several devices
