"""Protocol `paper`: DAG as published (Xie et al. 2017), 150 steps of 0.5 at most."""

custom_hooks = [dict(type='mmdiff.AttackHook', attack=dict(type='DAG'))]
