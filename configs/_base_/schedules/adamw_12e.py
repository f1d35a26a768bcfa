"""As adamw_2e.py, to tune what has weights: 12 epochs, a fifth of the rate."""

_base_ = './adamw_2e.py'

max_epochs = 12
train_cfg = dict(max_epochs=max_epochs, val_interval=4)
optim_wrapper = dict(optimizer=dict(lr=2e-4))
param_scheduler = _base_.param_scheduler
# The last one, the cosine, ends with the training.
param_scheduler[-1].update(end=max_epochs, T_max=max_epochs)
del max_epochs
