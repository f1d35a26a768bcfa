"""The inner attack of Robust Pretrainers' heads: PGD-2, Linf 1/255."""

attack = dict(type='mmdiff.PGD', eps=1, steps=2, step_size=1, keep_best=False)
