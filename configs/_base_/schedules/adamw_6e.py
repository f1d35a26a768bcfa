"""As adamw_2e.py, for sets on which two epochs leave a detector that finds little."""

_base_ = './adamw_2e.py'

max_epochs = 6
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(end=max_epochs, T_max=max_epochs)
