"""SGD for two epochs, one cycle of the rate (Smith and Topin 2018)."""

optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, end=0.5, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        begin=0.5,
        end=2,
        T_max=1.5,
        eta_min=1e-4,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(by_epoch=True, max_epochs=2)
val_cfg = dict()
test_cfg = dict()
