"""Measures of a representation against what is known of them in closed form."""

import builtins

import numpy as np
import pytest
import torch
from scipy.stats import ortho_group

from mmdiff.evaluation.representation.autoencoder import (
    SparseSettings,
    TopKAutoencoder,
    fit_autoencoder,
)
from mmdiff.evaluation.representation.dimension import (
    PrincipalAxes,
    classification_dimension,
    sizes_up_to,
)
from mmdiff.evaluation.representation.estimates import (
    estimate_mean,
    estimate_ratio,
    estimate_share,
    jackknife,
)
from mmdiff.evaluation.representation.frequency import (
    EDGES,
    HIGHEST,
    radial_shares,
    share_above,
    white_share_above,
)
from mmdiff.evaluation.representation.rank import (
    components_for,
    effective_rank,
    singular_values,
)
from mmdiff.evaluation.representation.similarity import cka
from mmdiff.evaluation.representation.sphere import alignment, on_sphere, uniformity
from mmdiff.evaluation.uncertainty import Bootstrap


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_the_effective_rank_of_the_identity_is_its_size():
    both_ways = np.concatenate([np.eye(7), -np.eye(7)]) + 3  # the mean counts nothing
    singular = singular_values(both_ways)
    assert effective_rank(singular) == pytest.approx(7)
    assert components_for(singular, 0.99) == 7
    # Of shares 2/3 and 1/3: exp of their entropy, 3 / 4 ** (1 / 3).
    assert effective_rank(np.array([2.0, 1.0])) == pytest.approx(3 / 4 ** (1 / 3))
    assert effective_rank(np.array([5.0, 0, 0])) == pytest.approx(1)


def test_rank_knows_no_scale_and_no_rotation():
    x = normal(40, 6) * np.arange(1, 7)
    turned = 9 * x @ ortho_group.rvs(6, random_state=0)
    values = [effective_rank(singular_values(y)) for y in (x, turned)]
    assert values[0] == pytest.approx(values[1]) and 4 < values[0] < 6


def test_features_that_never_change_have_no_rank():
    with pytest.raises(ValueError, match='the same for every image'):
        singular_values(np.full((9, 3), 0.1))


def test_alignment_is_the_squared_chord():
    angles = np.linspace(0, np.pi, 5)
    views = np.stack([np.cos(angles), np.sin(angles)], 1)
    same = np.tile([3.0, 0.0], (5, 1))  # of another length, which does not count
    assert alignment(same, views) == pytest.approx(2 - 2 * np.cos(angles))


def test_the_uniformity_of_an_even_sphere():
    """In three dimensions u = cos is uniform: E exp(-2 (2 - 2 u)) is known."""
    expected = -4 + np.log(np.sinh(4) / 4)
    assert uniformity(normal(2000, 3)) == pytest.approx(expected, abs=0.02)
    assert uniformity(np.tile([1.0, 2.0], (5, 1))) == pytest.approx(0)
    with pytest.raises(ValueError, match='All features of 1 images are 0'):
        on_sphere(np.array([[0.0, 0.0], [1.0, 0.0]]))


def test_cka_of_a_rotation_and_of_what_has_nothing_in_common():
    x = normal(60, 40)
    turned = 0.1 * x @ ortho_group.rvs(40, random_state=1) + 5
    for debiased in (True, False):
        assert cka(x, x, debiased) == pytest.approx(1)
        assert cka(x, turned, debiased) == pytest.approx(1)
    pairs = [
        (normal(60, 40, seed=k), normal(60, 40, seed=k + 50)) for k in range(1, 21)
    ]
    assert abs(np.mean([cka(*pair) for pair in pairs])) < 0.02
    assert np.mean([cka(*pair, debiased=False) for pair in pairs]) > 0.35
    # Half of the variance in common, of one direction: 1 / sqrt(1 * 4) of 1 and 2.
    wide = normal(4000, 2, seed=3)
    assert cka(wide[:, :1], wide) == pytest.approx(1 / 2**0.5, abs=0.03)
    with pytest.raises(ValueError, match='there are 60 and 59'):
        cka(x, x[1:])
    with pytest.raises(ValueError, match='needs 4 images'):
        cka(x[:3], x[:3])


@pytest.mark.parametrize('axis, cycles', [(0, 0.25), (1, 0.0625), (1, 0.5)])
def test_a_wave_lies_in_the_ring_of_its_frequency(axis, cycles):
    where = np.indices((16, 32))[axis]
    gradient = np.stack([np.cos(2 * np.pi * cycles * where)] * 3)
    shares = radial_shares(gradient)
    (ring,) = np.flatnonzero(shares > 1e-9)
    assert shares[ring] == pytest.approx(1)
    assert EDGES[ring] <= cycles <= EDGES[ring + 1]
    for cutoff in (0.125, 0.25):
        assert share_above(gradient, cutoff) == pytest.approx(float(cycles > cutoff))


def test_white_noise_has_the_share_of_its_frequencies():
    noise = normal(200, 32, 32)
    expected = white_share_above((32, 32), 0.25)
    assert share_above(noise, 0.25) == pytest.approx(expected, abs=0.01)
    assert radial_shares(noise).sum() == pytest.approx(1)
    assert np.hypot(0.5, 0.5) == pytest.approx(HIGHEST)
    with pytest.raises(ValueError, match='all 0 or not finite'):
        share_above(np.zeros((1, 4, 4)), 0.25)


def test_the_gradient_of_a_linear_model_lies_at_its_filters_frequency():
    """The loss is a function of one wave's inner product with the image."""
    wave = torch.cos(2 * torch.pi * 3 / 16 * torch.arange(16.0)).expand(3, 16, 16)
    image = torch.rand(3, 16, 16, requires_grad=True)
    torch.nn.functional.softplus((wave * image).sum()).backward()
    shares = radial_shares(image.grad.numpy())
    ring = np.searchsorted(EDGES, 3 / 16, side='right') - 1
    assert shares[ring] == pytest.approx(1, abs=1e-6)


SPARSE = SparseSettings(latents=40, active=3, steps=500, batch_size=128, rate=1e-2)


def unexplained(features, settings=SPARSE, fitted_on=1500):
    x = torch.tensor(features, dtype=torch.float32)
    errors, deviations = fit_autoencoder(x[:fitted_on], settings).errors(x[fitted_on:])
    return float(errors.sum() / deviations.sum())


def test_planted_sparse_codes_are_rebuilt_and_dense_ones_are_not():
    generator = np.random.default_rng(0)
    directions = on_sphere(normal(24, 16))
    codes = np.zeros((2000, 24))
    for row in codes:
        row[generator.choice(24, 3, replace=False)] = generator.uniform(1, 2, 3)
    planted = unexplained(5 + 100 * codes @ directions)
    dense = unexplained(normal(2000, 16, seed=1))
    assert planted < 0.1 < 0.35 < dense
    # Of 16 equal directions, three explain 3/16 and no more by any dense code.
    axes = PrincipalAxes.of(normal(1500, 16, seed=1))
    x = normal(500, 16, seed=2)
    assert axes.unexplained(x, 3).sum() / (x**2).sum() == pytest.approx(
        13 / 16, abs=0.04
    )


def test_no_more_latents_are_active_than_said_and_none_is_long():
    fitted = fit_autoencoder(torch.randn(300, 8), SparseSettings(30, 2, 60, 64))
    codes = fitted.network.encode(torch.randn(50, 8))
    assert int((codes != 0).sum(1).max()) == 2 and (codes >= 0).all()
    lengths = fitted.network.decoder.norm(dim=1)
    assert torch.allclose(lengths, torch.ones(30), atol=1e-5)
    assert 0 <= fitted.never_active < 1


def test_a_code_that_is_not_sparse_is_refused():
    with pytest.raises(ValueError, match='8 active of 8 latents is no sparse code'):
        SparseSettings(latents=8, active=8)
    with pytest.raises(ValueError, match='3 active latents are no sparse code of 3 f'):
        fit_autoencoder(torch.randn(9, 3), SPARSE)
    assert TopKAutoencoder(4, SPARSE).active == 3


def test_the_dimension_is_where_the_score_reaches_its_share():
    sizes = [1, 2, 4, 8]
    right = np.zeros((4, 100))
    for row, share in zip(right, (10, 45, 79, 80)):
        row[:share] = 1
    estimates = [
        classification_dimension(right, sizes, share, Bootstrap())
        for share in (0.5, 0.9, 1)
    ]
    assert [estimate.value for estimate in estimates] == [2, 4, 8]
    assert estimates[2].interval[0] <= 8 <= estimates[2].interval[1]
    with pytest.raises(ValueError, match='right on no image'):
        classification_dimension(0 * right, sizes, 0.9, Bootstrap())
    assert sizes_up_to(1) == [1] and sizes_up_to(200)[-1] == 200


def test_principal_axes_leave_out_what_does_not_vary():
    x = np.concatenate([normal(50, 2), np.full((50, 1), 7.0)], 1)
    assert PrincipalAxes.of(x).axes.shape == (2, 3)
    with pytest.raises(ValueError, match='the same for every image'):
        PrincipalAxes.of(np.full((9, 3), 0.1))


def test_principal_axes_say_that_sklearn_is_missing(monkeypatch):
    load = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith('sklearn'):
            raise ImportError(name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', missing)
    with pytest.raises(ValueError, match=r"pip install 'mmdiff\[analysis\]'"):
        PrincipalAxes.of(normal(9, 3))


def test_intervals_are_as_wide_as_those_of_the_normal_distribution():
    """Half a width of 1.96 standard errors, of each method."""
    x = normal(400)
    reach = 1.96 * x.std(ddof=1) / 20
    bootstrap = estimate_mean(x, Bootstrap())
    grouped = jackknife(lambda kept: x[kept].mean(), 400)
    for estimate in (bootstrap, grouped):
        low, high = estimate.interval
        assert estimate.value == pytest.approx(x.mean())
        assert (high - low) / 2 == pytest.approx(reach, rel=0.35)
    ratio = estimate_ratio(x**2, np.full(400, 2.0), Bootstrap())
    assert ratio.value == pytest.approx((x**2).mean() / 2)
    assert estimate_share(np.ones(100), Bootstrap()).interval[0] < 0.97


def test_an_interval_of_a_jackknife_covers_what_it_should():
    """Of uniformity in the plane: of 60 samples, about 57 hold the value of many."""
    truth = uniformity(normal(3000, 2, seed=99))
    held = 0
    for seed in range(60):
        x = normal(100, 2, seed=seed)
        low, high = jackknife(lambda kept, x=x: uniformity(x[kept]), 100).interval
        held += low <= truth <= high
    assert held >= 50
