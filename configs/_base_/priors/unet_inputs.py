"""What every prior shares: images in [-1, 1], in RGB, padded to the U-Net's stride.

Child configs add `backbone` and `neck` to `prior`. A detector takes all of it with
`model = dict(**_base_.pop('prior'), ...)`; `pop`, so that no helper name is left in the
merged config. The neck gives mmdet's usual 256 channels at the strides 4 to 64, so it
fits the heads of mmdet's own Faster R-CNN configs as they are.
"""

prior = dict(
    data_preprocessor=dict(
        mean=[127.5, 127.5, 127.5],
        std=[127.5, 127.5, 127.5],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    )
)
