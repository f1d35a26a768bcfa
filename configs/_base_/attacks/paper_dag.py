"""Protocol `paper`: DAG as published (Xie et al. 2017), 150 steps of 0.5 at most."""

robust_test_cfg = dict(
    type='mmdiff.RobustTestLoop',
    leave_out=True,
    protocol='paper',
    attacks=[dict(type='mmdiff.DAG')],
)
