"""SGD for heads of classes: 20 epochs, a tenth of the rate from every 7th on."""

optim_wrapper = dict(optimizer=dict(type='SGD', lr=1e-2, momentum=0.9))
param_scheduler = dict(type='StepLR', by_epoch=True, step_size=7, gamma=0.1)
train_cfg = dict(by_epoch=True, max_epochs=20, val_interval=5)
val_cfg = dict()
test_cfg = dict()
