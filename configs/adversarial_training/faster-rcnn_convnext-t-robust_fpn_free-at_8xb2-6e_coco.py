"""As faster-rcnn_r50-robust_fpn_free-at_8xb2-6e_coco.py, from a robust ConvNeXt-T.

That of Singh et al. (2023), with its convolutional stem and its images in 0..1.
"""

_base_ = [
    './faster-rcnn_r50-robust_fpn_free-at_8xb2-6e_coco.py',
    '../_base_/robust_starts/convnext-tiny-conv-stem.py',
]

model = dict(model=_base_.pop('robust_start'))
optim_wrapper = dict(optimizer=dict(weight_decay=0.05))
