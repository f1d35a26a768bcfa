"""ADM of ImageNet at 256 px (unconditional) as backbone, and a neck that fits it.

Fetch ``256x256_diffusion_uncond.pt`` (guided-diffusion's README), then::

    python tools/convert_checkpoint.py adm 256x256_diffusion_uncond.pt \\
        checkpoints/adm-imagenet256-uncond --preset imagenet256-uncond

t = 150 and ``up.1.1`` (block 24 of 37) are those of diffssl (Mukhopadhyay et al. 2023).
"""

_base_ = './unet_inputs.py'

prior = dict(
    backbone=dict(
        _delete_=True,
        type='mmdiff.DiffusionUNet',
        model=dict(source='checkpoints/adm-imagenet256-uncond', dtype='bfloat16'),
        timestep=150,
        # Stride 4 before up.3, whose last layers run at stride 2.
        out_indices=('up.2', 'up.2.1', 'up.1.1', 'mid'),
    ),
    neck=dict(
        _delete_=True,
        type='mmdiff.DiffusionFPN',
        in_channels=[512, 512, 1024, 1024],
        in_strides=[4, 8, 16, 32],
    ),
)
