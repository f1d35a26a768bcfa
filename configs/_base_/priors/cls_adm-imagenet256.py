"""ADM of ImageNet at 256 px (unconditional) in a classifier.

The protocol of diffssl (Mukhopadhyay et al. 2023): t = 150, block 24 of 37 (`up.1.1`,
1024 x 16 x 16), noise drawn anew in every pass. Half precision is bfloat16 here, which
has the range of fp32. adm-imagenet256.py says where the weights come from.
"""

_base_ = './cls_inputs.py'

prior = dict(
    backbone=dict(
        _delete_=True,
        type='mmdiff.DiffusionUNet',
        model=dict(source='checkpoints/adm-imagenet256-uncond', dtype='bfloat16'),
        timestep=150,
        noise='fresh',
        out_indices=('up.1.1',),
    ),
    head=dict(in_channels=1024),
)
