"""What every prior of a classifier shares: images in [-1, 1], in RGB.

Child configs add `backbone` to `prior`, and `head` its channels. A classifier takes all
of it with `model = dict(**_base_.pop('prior'), ...)`; `pop`, so that no helper name is
left in the merged config.
"""

prior = dict(
    data_preprocessor=dict(
        mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], to_rgb=True
    )
)
