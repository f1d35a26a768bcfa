"""The inner attack on CIFAR (Madry et al. 2018, DM-AT): PGD-10, Linf 8/255."""

attack = dict(type='mmdiff.PGD', eps=8, steps=10, step_size=2, keep_best=False)
