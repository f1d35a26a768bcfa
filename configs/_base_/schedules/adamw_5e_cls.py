"""As adamw_20e_cls.py, for a budget that two cores can pay: five epochs."""

_base_ = './adamw_20e_cls.py'

max_epochs = 5
train_cfg = dict(max_epochs=max_epochs, val_interval=100)
param_scheduler = _base_.param_scheduler
param_scheduler[-1].update(end=max_epochs, T_max=max_epochs)
del max_epochs
