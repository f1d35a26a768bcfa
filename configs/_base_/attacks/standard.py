"""Five attacks at 8/255 that fail for different reasons: read the worst case of them.

Three ascend on what the detector reports at test time: objects vanish, false alarms
rise, another class wins. Two ascend on its losses: all of them on the proposals of each
iterate, and those of the classes.
"""

robust_test_cfg = dict(
    type='mmdiff.RobustTestLoop',
    leave_out=True,
    attacks=[
        dict(
            type='mmdiff.APGD',
            eps=8,
            steps=50,
            objective='detections',
            proposals='moving',
        ),
        dict(
            type='mmdiff.APGD',
            eps=8,
            steps=50,
            objective='detections_fabrication',
            proposals='moving',
        ),
        dict(
            type='mmdiff.APGD',
            eps=8,
            steps=50,
            objective='targeted',
            proposals='moving',
        ),
        dict(type='mmdiff.PGD', eps=8, steps=50),
        dict(type='mmdiff.APGD', eps=8, steps=50, objective='cls'),
    ],
)
