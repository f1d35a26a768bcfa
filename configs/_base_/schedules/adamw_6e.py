"""As adamw_2e.py, for sets on which two epochs leave a detector that finds little."""

_base_ = './adamw_2e.py'

max_epochs = 6
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        convert_to_iter_based=True,
        begin=0,
        end=max_epochs,
        T_max=max_epochs,
    ),
]
