"""Protocol `paper`: PGD as released with oddefense (Li et al. 2023, arXiv 2305.17438).

A_cls, A_reg and A_cwa: ten steps of 1 at 4/255, from the image itself, the last
iterate, losses of the final head on the proposals of each step. There CWA weights
classes by their frequency in the training set, here by that in the image.
"""

published = dict(
    type='mmdiff.PGD',
    eps=4,
    step_size=1.0,
    steps=10,
    random_start=False,
    keep_best=False,
    proposals='moving',
)
robust_test_cfg = dict(
    type='mmdiff.RobustTestLoop',
    leave_out=True,
    protocol='paper',
    attacks=[
        dict(published, objective='cls'),
        dict(published, objective='reg'),
        dict(published, objective='cwa'),
    ],
)
del published
