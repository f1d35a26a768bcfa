"""AdamW for heads of classes: 20 epochs, cosine to zero.

Features of a prior are as large as its training left them (standard deviation 0.14 of
mmdiff::cifar10_patch2 at `up.1`), so one rate of SGD does not fit all of them.
"""

max_epochs = 20
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01))
param_scheduler = [
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        convert_to_iter_based=True,
        begin=0,
        end=max_epochs,
        T_max=max_epochs,
    )
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=5)
val_cfg = dict()
test_cfg = dict()
del max_epochs
