"""Protocol `paper`: "Diffusion Models are Robust Pretrainers" (arXiv 2511.02793).

PGD with 10 and 20 steps of 2/255 at 8/255 from a random start, the last iterate, and
AutoAttack; noise is fresh and gradients are of one draw (no EOT), which overstates the
robustness of a model that draws. AutoAttack has the steps of its own paper here.
"""

published = dict(
    type='mmdiff.PGD', eps=8, step_size=2.0, objective='ce', keep_best=False
)
robust_test_cfg = dict(
    type='mmdiff.RobustTestLoop',
    leave_out=True,
    protocol='paper',
    attacks=[
        dict(published, steps=10),
        dict(published, steps=20),
        dict(type='mmdiff.TorchAttack', name='AutoAttack', eps=8, steps=100),
    ],
)
del published
