"""The project's prior of VOC photographs (weights/voc07_patch4), and a neck for it."""

prior_preprocessor = dict(
    mean=[127.5, 127.5, 127.5],
    std=[127.5, 127.5, 127.5],
    bgr_to_rgb=True,
    pad_size_divisor=32,
)
prior_backbone = dict(
    type='mmdiff.DiffusionUNet',
    model=dict(source='mmdiff::voc07_patch4'),
    timestep=50,
    out_indices=('down.0.0', 'down.1.0', 'up.1', 'up.0', 'mid'),
)
prior_neck = dict(
    type='mmdiff.DiffusionFPN',
    in_channels=[64, 96, 192, 256, 256],
    in_strides=[4, 8, 8, 16, 32],
    out_channels=64,
)
