"""Values of all steps, the gradient of fewer: what the surrogate is and is not."""

import pytest
import torch
from test_purifiers import build, images, maximiser

from mmdiff.evaluation.checks.shields import name_gradient
from mmdiff.evaluation.entry import Entry
from mmdiff.evaluation.shield import Shield
from mmdiff.models import OneStepDenoiser


def pair(kind, noise='fixed'):
    """A purifier with a surrogate of one step, that with the exact gradient, and a
    purifier of one step alone, all with the same weights."""
    if kind == 'maximisation':
        make = lambda **kwargs: maximiser(noise=noise, **{'steps': 3, **kwargs})  # noqa: E731
    else:
        make = lambda **kwargs: build(kind, noise=noise, **{'steps': 3, **kwargs})  # noqa: E731
    return make(gradient='surrogate', surrogate_steps=1), make(), make(steps=1)


def gradient_of(purifier, x):
    """Values, and the gradient of a fixed sum of them, from one state of chance."""
    torch.manual_seed(3)
    x = x.clone().requires_grad_()
    values = purifier(x)
    weights = torch.linspace(-1, 1, values.numel()).view(values.shape)
    (grad,) = torch.autograd.grad((values * weights).sum(), x)
    return values.detach(), grad


@pytest.mark.parametrize('noise', ['fixed', 'fresh'])
@pytest.mark.parametrize('kind', ['ancestral', 'ddim', 'maximisation'])
def test_values_are_those_of_all_steps_and_the_slope_that_of_fewer(kind, noise):
    surrogate, full, short = pair(kind, noise)
    x = images()
    values, grad = gradient_of(surrogate, x)
    torch.manual_seed(3)
    assert torch.equal(values, full(x).detach())  # as a test sees them
    all_values, exact = gradient_of(full, x)
    few_values, few = gradient_of(short, x)
    assert torch.equal(values, all_values) and not torch.allclose(values, few_values)
    assert torch.allclose(grad, few, atol=1e-6)
    assert not torch.allclose(grad, exact, atol=1e-3 * exact.abs().max().item())


def test_the_surrogate_takes_its_steps_and_a_test_takes_none_of_them(monkeypatch):
    surrogate, _, _ = pair('ddim')
    calls, unet = [], surrogate.prior.unet
    forward = unet.forward
    monkeypatch.setattr(
        unet, 'forward', lambda *a, **k: calls.append(1) or forward(*a, **k)
    )
    with torch.no_grad():
        surrogate(images())
    assert len(calls) == 3
    gradient_of(surrogate, images())
    # All steps, one for the surrogate, and one more when its gradient is taken.
    assert len(calls) == 3 + 3 + 2


def test_reports_name_it_and_flag_it():
    surrogate, _, _ = pair('ancestral')
    told = surrogate.describe()
    assert told['gradient'] == 'surrogate' and told['settings']['surrogate_steps'] == 1
    entry = Entry('pgd', 'pgd', 'attack')
    (flag,) = name_gradient(entry, Shield(**told))
    assert (
        flag.code == 'gradient_replaced' and entry.settings['gradient'] == 'surrogate'
    )
    assert 'the gradient of DiffPure in 1 of its 3 steps in the place' in flag.text
    told = maximiser(steps=3, gradient='surrogate', surrogate_steps=2).describe()
    assert Shield(**told).instead == 'LikelihoodMaximization in 2 of its 3 steps'
    assert 'surrogate_steps' not in build('ancestral').describe()['settings']


@pytest.mark.parametrize(
    'make, words',
    [
        (
            lambda: build('ddim', gradient='surrogate'),
            'needs surrogate_steps, a whole number below the 3 steps of DiffPure',
        ),
        (
            lambda: build('ddim', gradient='surrogate', surrogate_steps=3),
            'surrogate_steps=3 must be at least 1 and fewer than the 3 steps',
        ),
        (
            lambda: maximiser(steps=2, gradient='surrogate', surrogate_steps=0),
            'surrogate_steps=0 must be at least 1 and fewer than the 2 steps',
        ),
        (
            lambda: build('ddim', surrogate_steps=1),
            "belong to gradient='surrogate', not to 'exact'",
        ),
        (
            lambda: build('one-step', gradient='surrogate'),
            'is of fewer steps, and OneStepDenoiser has one',
        ),
        (
            lambda: build('ddim', steps=0, gradient='surrogate', surrogate_steps=1),
            'steps=0 must be a whole number of at least 1',
        ),
    ],
)
def test_mistakes_are_one_sentence(make, words):
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert '\n' not in str(caught.value)


def test_one_step_has_no_steps():
    assert OneStepDenoiser.steps is None
