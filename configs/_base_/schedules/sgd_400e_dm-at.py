"""The schedule of DM-AT (Wang et al. 2023), for batches of 512.

The weights that are validated and saved are a moving average of 0.995.
"""

optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.2, momentum=0.9, nesterov=True, weight_decay=5e-4)
)
param_scheduler = dict(
    type='OneCycleLR', by_epoch=True, eta_max=0.2, total_steps=400, pct_start=0.025
)
train_cfg = dict(by_epoch=True, max_epochs=400, val_interval=10)
val_cfg = dict()
test_cfg = dict()
custom_hooks = [dict(type='EMAHook', momentum=0.005)]
