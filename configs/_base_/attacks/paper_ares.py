"""Protocol `paper`: PGD of ARES 2.0 (detection) in its published table: eps 2/255.

Steps of 1 from a random start, without box losses, the last iterate. There the RPN's
losses count too, here only those of the final head.
"""

robust_test_cfg = dict(
    type='mmdiff.RobustTestLoop',
    leave_out=True,
    protocol='paper',
    attacks=[
        dict(
            type='mmdiff.PGD',
            eps=2,
            step_size=1.0,
            steps=20,
            objective='cls',
            keep_best=False,
            proposals='moving',
        )
    ],
)
