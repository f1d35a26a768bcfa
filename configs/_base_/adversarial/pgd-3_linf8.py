"""A short inner attack for CIFAR: PGD-3 with steps of half the budget, Linf 8/255."""

attack = dict(type='mmdiff.PGD', eps=8, steps=3, step_size=4, keep_best=False)
