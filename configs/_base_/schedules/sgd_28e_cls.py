"""diffssl's: SGD without momentum for 28 epochs, a tenth of the rate every 7th."""

_base_ = './sgd_20e_cls.py'

optim_wrapper = dict(optimizer=dict(momentum=0))
train_cfg = dict(max_epochs=28)
