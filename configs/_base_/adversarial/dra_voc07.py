"""Dense alignment of a neck's map of stride 8 with the project's prior of VOC."""

alignment = dict(
    prior=dict(
        model=dict(source='mmdiff::voc07_patch4'),
        timestep=50,
        out_indices=('up.1',),
    ),
    alignment=dict(in_channels=256, hidden_channels=512, loss_weight=1.0, dense=True),
    layer='neck',
    level=0,
    prior_scale=0.4,  # 128 px, the size of the prior's own images
)
