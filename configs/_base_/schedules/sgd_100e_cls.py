"""As sgd_20e_cls.py, for 100 epochs; hardly anything is learned after the 28th."""

_base_ = './sgd_20e_cls.py'

train_cfg = dict(max_epochs=100)
