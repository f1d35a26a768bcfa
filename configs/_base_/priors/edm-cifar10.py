"""EDM's class-conditional prior of CIFAR-10 (DDPM++, VP) as backbone, and its neck.

tools/convert_checkpoint.py writes the folder from edm-cifar10-32x32-cond-vp.pkl.
"""

_base_ = './unet_inputs.py'

prior = dict(
    backbone=dict(
        _delete_=True,
        type='mmdiff.DiffusionUNet',
        model=dict(source='checkpoints/edm-cifar10-32x32-cond-vp'),
        # Step 4 of 18 from the clean end, the best one of DDAE's linear probes.
        sigma=0.0599,
        out_indices=('up.1.2', 'up.0.4', 'mid'),
    ),
    neck=dict(
        _delete_=True,
        type='mmdiff.DiffusionFPN',
        in_channels=[256, 256, 256],
        in_strides=[2, 4, 4],
    ),
)
