"""The account of an attack's work."""

import torch

from mmdiff.attacks import AttackStats


def test_the_sum_of_accounts_is_the_account_of_all_images():
    clean = [torch.full((1, 2, 2), 100.0), torch.full((1, 2, 2), 50.0)]
    adv = [clean[0] + 3, clean[1].clone()]
    whole, parts = AttackStats(), [AttackStats(), AttackStats()]
    whole.record_images(clean, adv)
    for part, x, a in zip(parts, clean, adv):
        part.record_images([x], [a])
        part.record_losses(0, 2.0)
        part.grad_evals = part.zero_grads = part.nonfinite_grads = part.queries = 2
    whole.losses = {0: 4.0}
    whole.grad_evals = whole.zero_grads = whole.nonfinite_grads = whole.queries = 4
    assert AttackStats.sum(parts) == whole
    assert (whole.changed, whole.max_delta, whole.max_l2) == (1, 3.0, 6.0)
    assert (whole.pixel_min, whole.pixel_max) == (50.0, 103.0)
