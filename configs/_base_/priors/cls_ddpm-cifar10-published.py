"""google/ddpm-cifar10-32 in a classifier, as the code of Yagoda et al. (2025) runs it.

With its flaws: the prior expects images in [-1, 1] and gets [0, 1], and each pass draws
one noise for all images of its batch. A gradient of one draw (the code averages none)
overstates robustness: attack it with `eot` above 1 as well.
"""

_base_ = './cls_ddpm-cifar10.py'

prior = dict(
    data_preprocessor=dict(mean=[0, 0, 0], std=[255, 255, 255]),
    backbone=dict(noise='shared'),
)
