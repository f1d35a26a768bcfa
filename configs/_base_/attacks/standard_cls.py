"""`standard` for classifiers: the four attacks of AutoAttack at 8/255, each in full.

APGD on the cross-entropy, APGD on the targeted DLR (nine targets), targeted FAB and
Square (Croce and Hein 2020): FAB is torchattacks', the others are those of the project.
Read the worst case of them.
"""

robust_test_cfg = dict(
    type='mmdiff.RobustTestLoop',
    leave_out=True,
    attacks=[
        dict(type='mmdiff.APGD', eps=8, steps=100, objective='ce'),
        dict(
            type='mmdiff.APGD', eps=8, steps=100, objective='dlr_targeted', restarts=9
        ),
        dict(
            type='mmdiff.TorchAttack',
            name='FAB',
            eps=8,
            steps=100,
            multi_targeted=True,
        ),
        dict(type='mmdiff.Square', eps=8, steps=5000, objective='cw'),
    ],
)
