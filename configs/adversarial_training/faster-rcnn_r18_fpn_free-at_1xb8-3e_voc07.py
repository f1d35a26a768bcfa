"""FreeAT of Faster R-CNN (ResNet-18): four replays, a fourth of the epochs."""

_base_ = './faster-rcnn_r18_fpn_at_1xb8-12e_voc07.py'

model = dict(loss=dict(type='mmdiff.FreeATLoss', replays=4))
model_wrapper_cfg = dict(type='mmdiff.ReplayedDataParallel')  # of several devices
train_cfg = dict(max_epochs=3, val_interval=1)
param_scheduler = _base_.param_scheduler
param_scheduler[-1].update(end=3, T_max=3)
