"""Five attacks at 8/255 that fail for different reasons: read the worst of them.

APGD raises all losses and those of the classes, DAG turns proposals, vanishing takes
objects away, and Square needs no gradient: where it wins, gradients are hidden.
"""

robust_test_cfg = dict(
    type='mmdiff.RobustTestLoop',
    leave_out=True,
    attacks=[
        dict(type='mmdiff.APGD', eps=8, steps=50),
        dict(type='mmdiff.APGD', eps=8, steps=50, objective='cls'),
        dict(type='mmdiff.DAG', eps=8, steps=50),
        dict(type='mmdiff.APGD', eps=8, steps=50, objective='vanishing'),
        dict(type='mmdiff.Square', eps=8, steps=200),
    ],
)
