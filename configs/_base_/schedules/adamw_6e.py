"""As adamw_2e.py, for datasets on which two epochs are too few to see much."""

_base_ = './adamw_2e.py'

max_epochs = 6
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = _base_.param_scheduler
# The last one, the cosine, ends with the training.
param_scheduler[-1].update(end=max_epochs, T_max=max_epochs)
del max_epochs
