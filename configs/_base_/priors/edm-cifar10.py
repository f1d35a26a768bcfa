"""EDM's class-conditional prior of CIFAR-10 (DDPM++, VP) as backbone, and its neck.

tools/convert_checkpoint.py writes the folder from edm-cifar10-32x32-cond-vp.pkl.
"""

prior_preprocessor = dict(
    mean=[127.5, 127.5, 127.5],
    std=[127.5, 127.5, 127.5],
    bgr_to_rgb=True,
    pad_size_divisor=32,
)
prior_backbone = dict(
    type='mmdiff.DiffusionUNet',
    model=dict(source='checkpoints/edm-cifar10-32x32-cond-vp'),
    # Step 4 of 18 from the clean end, the best one of DDAE's linear probes.
    sigma=0.0599,
    out_indices=('up.1.2', 'up.0.4', 'mid'),
)
prior_neck = dict(
    type='mmdiff.DiffusionFPN',
    in_channels=[256, 256, 256],
    in_strides=[2, 4, 4],
    out_channels=64,
)
