"""The inner attack on ImageNet (Salman et al. 2020): PGD-3, Linf 4/255."""

attack = dict(type='mmdiff.PGD', eps=4, steps=3, step_size=8 / 3, keep_best=False)
