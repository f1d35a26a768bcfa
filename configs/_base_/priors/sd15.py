"""Stable Diffusion 1.5 as backbone, and a neck that fits it.

Taps and timestep of VPD (Zhao et al. 2023): the decoder's last layers at the strides 8
to 64 of images without noise at t = 1. Larger timesteps keep fewer details, of objects
and of attacks. The hub's weights (4 GB) are fetched once; needs `pip install
'mmdiff[sd]'` for the first run.
"""

_base_ = './unet_inputs.py'

prior = dict(
    # 8 of the VAE times 8 of the U-Net.
    data_preprocessor=dict(pad_size_divisor=64),
    backbone=dict(
        _delete_=True,
        type='mmdiff.DiffusionUNet',
        model=dict(
            source='stable-diffusion-v1-5/stable-diffusion-v1-5',
            prompt='',
            dtype='bfloat16',
        ),
        timestep=1,
        noise='none',
        out_indices=('up.3.2', 'up.2.1', 'up.1.1', 'up.0.1'),
    ),
    neck=dict(
        _delete_=True,
        type='mmdiff.DiffusionFPN',
        in_channels=[320, 640, 1280, 1280],
        in_strides=[8, 16, 32, 64],
    ),
)
