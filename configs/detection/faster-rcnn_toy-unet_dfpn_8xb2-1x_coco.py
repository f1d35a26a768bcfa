"""How any detector of mmdet gets a diffusion backbone: three lines.

The shipped prior stands for a prior of your images.
"""

_base_ = [
    'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    '../_base_/priors/toy_voc.py',
]
custom_imports = dict(imports=['mmdiff'], allow_failed_imports=False)
model = _base_.pop('prior')
