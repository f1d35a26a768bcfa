"""PreAct-ResNet-20 behind DiffPure (Nie et al. 2022), in five ancestral steps."""

_base_ = './preact-resnet20_one-step-shield_cifar10-folders.py'

model = dict(purifier=dict(type='mmdiff.DiffPure', steps=5))
