"""Alignment with the project's prior of CIFAR-10, asked without a class (10)."""

alignment = dict(
    prior=dict(
        model=dict(source='mmdiff::cifar10_patch2'),
        condition=10,
        timestep=50,
        out_indices=('up.1',),
    ),
    alignment=dict(in_channels=512, loss_weight=1.0),
)
