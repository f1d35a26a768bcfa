"""Certificates: the bound of a share, the radius, and who abstains."""

import math
from statistics import NormalDist

import pytest
import torch

from mmdiff.evaluation.metrics import CertifiedAccuracy
from mmdiff.evaluation.metrics.certified_accuracy import certified_radius, lower_bound


def test_the_bound_is_that_of_clopper_and_pearson():
    assert lower_bound(100, 100, 0.001) == pytest.approx(0.001 ** (1 / 100), abs=1e-9)
    for successes, trials in ((1, 10), (51, 100), (990, 1000)):
        p = lower_bound(successes, trials, 0.01)
        tail = sum(
            math.comb(trials, k) * p**k * (1 - p) ** (trials - k)
            for k in range(successes, trials + 1)
        )
        assert tail == pytest.approx(0.01, rel=1e-6)


def test_the_radius_is_sigma_times_a_quantile():
    p = lower_bound(990, 1000, 0.001)
    expected = 64 * NormalDist().inv_cdf(p)
    assert certified_radius(990, 1000, 64.0, 0.001) == pytest.approx(expected)
    assert certified_radius(500, 1000, 64.0, 0.001) == 0  # a half is no majority
    assert certified_radius(530, 1000, 64.0, 0.001) == 0  # and 53 % may be a half
    assert certified_radius(560, 1000, 64.0, 0.001) > 0


def sample(label, chosen, votes):
    return dict(
        gt_label=torch.tensor([label]),
        smoothed_label=chosen,
        votes=votes,
        copies=1000,
        noise_sigma=64.0,
    )


def test_abstentions_and_mistakes_are_not_right_at_any_radius():
    metric = CertifiedAccuracy(radii=[0, 100, 1000])
    samples = [
        sample(1, 1, 1000),
        sample(1, 1, 700),
        sample(1, 1, 520),
        sample(1, 0, 990),
    ]
    metric.process(None, samples)
    metrics = metric.evaluate(4)
    sure, less = (certified_radius(n, 1000, 64.0, 0.001) for n in (1000, 700))
    assert less < 100 < sure < 1000
    # One and none of four images.
    ends = [metrics.pop(f'certified/accuracy_100_{end}') for end in ('low', 'high')]
    assert ends == pytest.approx([0.6309, 80.5880], abs=1e-3)
    ends = [metrics.pop(f'certified/accuracy_1000_{end}') for end in ('low', 'high')]
    assert ends == pytest.approx([0, 100 * (1 - 0.025 ** (1 / 4))])
    shares = {k: v for k, v in metrics.items() if not k.endswith(('_low', '_high'))}
    assert shares == {
        'certified/accuracy_0': 50.0,
        'certified/accuracy_100': 25.0,
        'certified/accuracy_1000': 0.0,
        'certified/abstained': 25.0,
        'certified/mean_radius': pytest.approx((sure + less) / 4),
    }


def test_mistakes_are_one_sentence():
    with pytest.raises(ValueError, match='alpha=0 must be above 0'):
        CertifiedAccuracy(alpha=0)
    with pytest.raises(ValueError, match='must be 0 or more'):
        CertifiedAccuracy(radii=[-1])
    with pytest.raises(ValueError, match='mmdiff.SmoothedClassifier'):
        CertifiedAccuracy().process(None, [dict(gt_label=torch.tensor([1]))])
    assert math.isclose(lower_bound(0, 5, 0.01), 0)
