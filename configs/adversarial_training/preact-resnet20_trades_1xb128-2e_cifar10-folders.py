"""TRADES (Zhang et al. 2019) in the place of PGD-AT."""

_base_ = './preact-resnet20_at_1xb128-2e_cifar10-folders.py'

model = dict(attack=dict(objective='kl'), loss=dict(type='mmdiff.TRADESLoss', beta=6.0))
