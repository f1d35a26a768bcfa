"""One attack for a first look: PGD-10 at 8/255, clean beside it."""

robust_test_cfg = dict(
    type='mmdiff.RobustTestLoop',
    leave_out=True,
    attacks=[dict(type='mmdiff.PGD', eps=8, steps=10)],
)
