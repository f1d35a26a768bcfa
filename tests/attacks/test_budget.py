"""The ball that an attack must stay in."""

import math

import pytest
import torch

from mmdiff.attacks import Budget


@pytest.fixture
def clean():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 8, 8), generator=generator).float()


@pytest.mark.parametrize('norm', ['linf', 'l2'])
@pytest.mark.parametrize('eps', [0, 0.5, 20, None])
def test_a_projected_image_is_inside_and_projecting_again_changes_nothing(
    clean, norm, eps
):
    budget = Budget(eps, norm)
    far = clean + 300 * torch.randn(clean.shape)
    near = budget.project(far, clean)
    assert near.min() >= 0 and near.max() <= 255
    assert budget.measure(near - clean) <= budget.radius + 1e-3
    assert torch.allclose(budget.project(near, clean), near, atol=1e-4)
    assert not torch.equal(near, clean) or eps == 0


@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_eps_0_gives_the_clean_image(clean, norm):
    budget = Budget(0, norm)
    assert torch.equal(budget.project(clean.clone(), clean), clean)
    assert torch.equal(budget.project(clean + 1, clean), clean)


@pytest.mark.parametrize('norm, eps', [('linf', 2.5), ('l2', 9.3), ('linf', None)])
def test_rounding_stays_inside(clean, norm, eps):
    budget = Budget(eps, norm)
    adv = budget.project(clean + 5 * torch.randn(clean.shape), clean)
    rounded = budget.round(adv, clean)
    assert torch.equal(rounded, rounded.round())
    assert (rounded - adv).abs().max() <= 1
    assert budget.measure(rounded - clean) <= budget.radius


def test_budgets_contain_smaller_ones_of_their_norm():
    assert Budget(4) in Budget(8) and Budget(8) in Budget(8)
    assert Budget(8) not in Budget(4)
    assert Budget(4, 'l2') not in Budget(8)
    assert Budget(8) in Budget(None) and Budget(None) not in Budget(8)
    assert Budget(None).radius == math.inf
    assert sorted([Budget(8), Budget(2)], key=lambda b: b.radius)[0] == Budget(2)


@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_samples_fill_the_ball_and_edges_are_as_large_as_it(clean, norm):
    budget = Budget(6, norm)
    generator = torch.Generator().manual_seed(0)
    sizes = [budget.measure(budget.sample(clean, generator)) for _ in range(20)]
    assert all(0 < size <= 6 for size in sizes) and len(set(sizes)) == 20
    assert budget.measure(budget.sample_edge(clean, generator)) == pytest.approx(6)


def test_a_step_along_the_direction_has_size_1(clean):
    grad = torch.randn(3, 8, 8)
    for norm in ('linf', 'l2'):
        step = Budget(8, norm).direction(grad)
        assert Budget(8, norm).measure(step) == pytest.approx(1)
        assert (step * grad).sum() > 0
    assert torch.isfinite(Budget(8, 'l2').direction(torch.zeros(3, 2, 2))).all()


def test_names_tell_norm_and_size():
    assert str(Budget(4)) == 'Linf 4' and str(Budget()) == 'no budget'
    assert Budget(0.5, 'l2').suffix == '_l2_eps0.5' and Budget(4.0).suffix == '_eps4'
