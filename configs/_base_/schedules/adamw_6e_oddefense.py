"""Fine-tuning of oddefense (Li et al. 2023): "2x" by four replays, on eight devices."""

max_epochs = 6
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.1),
    paramwise_cfg=dict(
        norm_decay_mult=0.0, custom_keys=dict(backbone=dict(lr_mult=0.1))
    ),
    clip_grad=dict(max_norm=100),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=125),
    dict(type='MultiStepLR', milestones=[5], gamma=0.1, end=max_epochs),
]
del max_epochs
