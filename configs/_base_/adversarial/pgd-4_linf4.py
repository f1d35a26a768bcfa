"""The inner attack on detectors: PGD-4 on all losses, Linf 4/255."""

attack = dict(type='mmdiff.PGD', eps=4, steps=4, step_size=1.5, keep_best=False)
