"""Alignment with ADM of ImageNet at 256 px; see ../priors/adm-imagenet256.py."""

alignment = dict(
    prior=dict(
        model=dict(source='checkpoints/adm-imagenet256-uncond', dtype='bfloat16'),
        timestep=150,
        out_indices=('up.1.1',),
    ),
    alignment=dict(in_channels=2048, loss_weight=1.0),
)
