"""Add to the bases of a config: validation and testing run under PGD-20 at 8/255."""

custom_hooks = [
    dict(type='mmdiff.AttackHook', attack=dict(type='PGD', eps=8, steps=20)),
]
