"""One perturbation for all images: what is added, where, and what is refused."""

import json
from dataclasses import replace

import pytest
import torch
from conftest import ask, batch_of, run
from safetensors.torch import save_file

from mmdiff import PGD
from mmdiff.attacks import Budget, Perturbation, Universal, UniversalFit, oracle_of
from mmdiff.engine.loops.cached_runs import describe
from mmdiff.registry import ATTACKS

SHAPE, LINF8 = (3, 48, 56), Budget(8)


def values_of(budget, shape=SHAPE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return budget.sample_edge(torch.zeros(shape), generator)


@pytest.fixture
def saved(tmp_path):
    """``saved(budget, **changes)``: file of a random perturbation."""

    def save(budget=LINF8, name='delta', **changes):
        kept = dict(values=values_of(budget), budget=budget, order='bgr')
        file = tmp_path / f'{name}.safetensors'
        Perturbation(**{**kept, **changes}).save(file)
        return str(file)

    return save


def test_the_same_change_is_added_to_images_of_all_sizes(make_detector, saved):
    """Smaller than the canvas, and larger, where it repeats; padding stays."""
    batch = batch_of([(3, 40, 50), (3, 64, 90)], (1, 2))
    batch['inputs'] = [x.clamp(10, 245) for x in batch['inputs']]
    padded = torch.full((3, 64, 64), 99, dtype=torch.uint8)
    padded[:, :40, :50] = batch['inputs'][0]
    batch['inputs'][0] = padded
    attack = Universal(file=saved())
    result = run(attack, make_detector('retinanet', 'resnet'), batch)
    delta = values_of(Budget(8))
    small, large = (adv - x for adv, x in zip(result.inputs, batch['inputs']))
    assert torch.allclose(small[:, :40, :50], delta[:, :40, :50])
    assert not small[:, 40:].any() and not small[:, :, 50:].any()
    assert torch.allclose(large[:, :48, :56], delta)
    assert torch.allclose(large[:, 48:, 56:], delta[:, :16, :34])
    assert result.stats.grad_evals == result.stats.queries == 0


def test_an_l2_budget_holds_where_the_canvas_repeats(make_detector, saved):
    budget = Budget(300, 'l2')
    batch = batch_of([(3, 96, 96), (3, 32, 32)], (1, 1))
    attack = Universal(file=saved(budget), norm='l2')
    adversarial = attack(make_detector('retinanet', 'resnet'), batch)
    sizes = [(a - x).norm() for a, x in zip(adversarial, batch['inputs'])]
    assert 150 < sizes[0] <= 300 + 1e-3
    assert sizes[1] < 200  # a part of the canvas is not scaled up


@pytest.mark.parametrize('quantize', [False, True])
def test_pixels_outside_of_the_mask_stay_bit_by_bit(make_detector, saved, quantize):
    batch = batch_of([(3, 60, 90)], (1,))
    file = saved(Budget(8, mask='boxes'))
    attack = Universal(file=file, mask='boxes', quantize=quantize)
    model = make_detector('retinanet', 'resnet')
    (mask,) = attack.gather(oracle_of(model), batch).masks
    (adv,) = attack(model, batch)
    assert torch.equal(adv[:, ~mask], batch['inputs'][0][:, ~mask].float())
    assert (adv - batch['inputs'][0])[:, mask].abs().max() > 7


def test_a_row_names_the_file_by_what_is_in_it(saved, tmp_path):
    file = saved(fitted_on='tiny, 4 images')
    attack = Universal(file=file)
    threat = attack.threat_model()
    assert threat['file'] == f'delta.safetensors {attack.perturbation.digest}'
    assert threat['fitted_on'] == 'tiny, 4 images' and threat['eps'] == 8
    moved = Universal(file=saved(name='moved'))
    other = saved(name='other', values=values_of(Budget(8), seed=1))
    assert describe(moved) == describe(attack) != describe(Universal(file=other))
    json.dumps(threat)
    assert replace(attack, seed=3).threat_model() == {**threat, 'seed': 3}
    assert ATTACKS.build(dict(type='Universal', file=file, eps=8)).eps == 8


@pytest.mark.parametrize(
    'changes, settings, words',
    [
        (dict(), dict(eps=4), 'within Linf 8, and the attack is to be within Linf 4'),
        (dict(), dict(eps=16), 'and the attack is to be within Linf 16'),
        (
            dict(),
            dict(norm='l2'),
            'to be within L2 8; give the same eps, norm',
        ),
        (dict(), dict(mask='boxes'), 'to be within Linf 8, mask boxes'),
        (dict(budget=Budget(8, mask='boxes')), dict(), 'within Linf 8, mask boxes'),
        (dict(epochs=5, epochs_done=3), dict(), r'is unfinished \(3 of 5 epochs\)'),
        (dict(order='rgb'), dict(), "in the order 'rgb', and images are loaded in"),
        (dict(values=9 * torch.ones(SHAPE)), dict(), 'a change of 9, outside of its'),
        (dict(values=torch.ones(8, 8)), dict(), r'shape \(C, H, W\), not \(8, 8\)'),
        (dict(values=torch.full(SHAPE, torch.nan)), dict(), 'must hold finite values'),
    ],
)
def test_what_cannot_be_right_is_refused_in_a_sentence(saved, changes, settings, words):
    file = saved(**changes)
    with pytest.raises(ValueError, match=words) as caught:
        Universal(file=file, **settings)
    assert '\n' not in str(caught.value)


def test_other_files_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(ValueError, match='needs a perturbation; give file='):
        Universal()
    with pytest.raises(FileNotFoundError, match='There is no perturbation none.saf'):
        Universal(file='none.safetensors')
    for name, about in (('weights', None), ('later', dict(about='{"schema": "x/2"}'))):
        file = tmp_path / f'{name}.safetensors'
        save_file(dict(perturbation=torch.ones(SHAPE)), file, about)
        with pytest.raises(ValueError, match='is no universal perturbation'):
            Universal(file=file)
    file.write_bytes(b'{}')
    with pytest.raises(ValueError, match='is no universal perturbation'):
        Universal(file=file)


def test_images_of_other_channels_are_refused_in_a_sentence(make_detector, saved):
    file = saved(values=torch.ones(1, 8, 8), order='')
    with pytest.raises(ValueError, match='has 1 channels and the image 3'):
        Universal(file=file)(make_detector('retinanet', 'resnet'), batch_of())


@pytest.mark.parametrize('budget', [Budget(8), Budget(300, 'l2')], ids=str)
def test_a_step_follows_the_mean_gradient_and_stays_in_the_ball(make_detector, budget):
    """Of images of two sizes, each of which reaches a part of the canvas."""
    model = make_detector('retinanet', 'resnet')
    batch = batch_of([(3, 32, 64), (3, 64, 32)], (2, 2))
    eps, norm = budget.eps, budget.norm
    attack = PGD(eps, norm=norm, steps=4, objective='cls', step_size=eps / 2)
    fit = UniversalFit(attack, oracle_of(model))
    objectives = [fit.step(batch, number) for number in range(4)]
    values = fit.perturbation.values
    assert values.shape == (3, 64, 64) and budget.measure(values) <= eps + 1e-3
    assert not values[:, 32:, 32:].any() and values[:, :32, 32:].any()
    assert objectives[-1] > objectives[0]


def test_the_first_step_is_along_the_mean_of_the_images_gradients(make_detector):
    model = make_detector('retinanet', 'resnet')
    batch = batch_of([(3, 64, 64), (3, 64, 64)], (2, 1))
    attack = PGD(300, norm='l2', objective='cls', step_size=30.0)
    fit = UniversalFit(attack, oracle_of(model))
    fit.step(batch, 0)
    question = ask(attack, model, batch)
    with question.oracle.attacked():
        grads, _ = question.gradients(question.group.pixels, 0, 0)
    mean = sum(grads) / 2
    assert torch.allclose(fit.perturbation.values, 30 * mean / mean.norm(), atol=1e-3)


def test_a_fit_changes_nothing_outside_of_its_mask(make_detector):
    model = make_detector('retinanet', 'resnet')
    attack = PGD(8, objective='cls', mask=(0, 0, 0.5, 1))
    fit = UniversalFit(attack, oracle_of(model))
    fit.step(batch_of([(3, 64, 64)], (2,)), 0)
    values = fit.perturbation.values
    assert not values[:, :, 32:].any() and values[:, :, :32].any()
    nowhere = PGD(8, objective='cls', mask='boxes')
    fit = UniversalFit(nowhere, oracle_of(model))
    assert fit.step(batch_of([(3, 64, 64)], (0,)), 0) is None


def test_images_of_several_numbers_of_channels_are_refused(make_detector):
    model = make_detector('retinanet', 'resnet')
    batch = batch_of([(3, 64, 64), (3, 64, 64)], (1, 1))
    batch['inputs'][1] = batch['inputs'][1][:1]
    with pytest.raises(ValueError, match='Images have 1 and 3 channels; fit on'):
        UniversalFit(PGD(8), oracle_of(model)).step(batch, 0)
