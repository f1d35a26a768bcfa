"""PreAct-ResNet-20 (0.27 M parameters) for images of 32 px from files.

A network that a CPU can train adversarially (He et al. 2016, section 4.2, of the first
paper on residual networks; pre-activation as in the second).
"""

_base_ = './preact-resnet18.py'

model = dict(
    backbone=dict(stem_channels=16, widths=(16, 32, 64), blocks=(3, 3, 3)),
    head=dict(in_channels=64),
)
