"""Where attacks may change pixels: nothing else changes, not by one bit."""

import math

import numpy as np
import pytest
import torch
from conftest import batch_of, run
from test_attack import ATTACKS, every_attack

from mmdiff import PGD
from mmdiff.attacks import Attack, Budget, RandomNoise, Square, oracle_of
from mmdiff.attacks.masks import Boxes
from mmdiff.attacks.square import Area

LEFT = (0, 0, 0.5, 1)
MASKS = {
    'boxes': 'boxes',
    'background': dict(type='background', grow=2),
    'rectangle': (0.25, 0.25, 0.75, 0.5),
    'pixels': dict(type='rectangle', box=(3, 5, 40, 9), unit='pixel'),
}


KEPT = {}


@pytest.fixture
def retinanet(make_detector):
    """One model for all tests: attacks leave it as it was."""
    if not KEPT:
        KEPT['model'] = make_detector('retinanet', 'resnet')
    return KEPT['model']


def masks_of(attack, model, batch, gt_scale='original'):
    group = attack.gather(oracle_of(model, gt_scale), batch)
    return [frame.mask for frame in group.frames]


def fractional(batch):
    """Pixel values that no file holds, as a resize in float leaves them."""
    batch['inputs'] = [(x.float() * 0.99 + 0.3) for x in batch['inputs']]
    return batch


@every_attack
@pytest.mark.parametrize('quantize', [False, True])
def test_pixels_outside_stay_bit_by_bit(retinanet, name, quantize):
    batch = fractional(batch_of([(3, 60, 90), (3, 64, 40)], (1, 1)))
    attack = ATTACKS[name](mask='boxes', quantize=quantize)
    result = run(attack, retinanet, batch)
    for x, adv, mask in zip(
        batch['inputs'], result.inputs, masks_of(attack, retinanet, batch)
    ):
        assert 0 < mask.sum() < mask.numel() / 2
        assert torch.equal(adv[:, ~mask], x[:, ~mask])
        delta = adv - x
        assert delta.abs().max() > 0.4
        if attack.eps is not None:
            size = delta.norm() if attack.norm == 'l2' else delta.abs().max()
            assert size <= attack.eps + 1e-3
    assert result.stats.changed == result.stats.images == 2
    assert result.stats.zero_grads == result.stats.nonfinite_grads == 0


@pytest.mark.parametrize('name', ['pgd-l2', 'apgd', 'square', 'square-l2', 'dag'])
@pytest.mark.parametrize('mask', MASKS)
def test_every_kind_of_mask_holds(retinanet, name, mask):
    batch = batch_of([(3, 64, 64)], (2,))
    attack = ATTACKS[name](mask=MASKS[mask])
    (adv,), (inside,) = attack(retinanet, batch), masks_of(attack, retinanet, batch)
    x = batch['inputs'][0].float()
    assert torch.equal(adv[:, ~inside], x[:, ~inside])
    # DAG changes what its proposals see; all others most pixels inside.
    changed = (adv != x).any(0)[inside].float().mean()
    assert changed > (0 if 'dag' in name else 0.3)


@every_attack
def test_a_mask_of_all_pixels_is_no_mask(retinanet, name):
    batch = batch_of([(3, 60, 90), (3, 64, 40)], (3, 2))
    plain = run(ATTACKS[name](), retinanet, batch)
    masked = run(ATTACKS[name](mask=(0, 0, 1, 1)), retinanet, batch)
    assert all(map(torch.equal, plain.inputs, masked.inputs))
    assert str(plain.losses) == str(masked.losses)  # NaN is no number
    assert masked.stats.mask_hidden == plain.stats.mask_hidden == 0


@pytest.mark.parametrize('name', ['pgd', 'apgd-l2', 'mim'])
def test_a_larger_mask_lets_the_objective_rise_further(retinanet, name):
    batch, ends = batch_of([(3, 64, 96)], (3,)), []
    for mask in ((0, 0, 0.1, 0.1), LEFT, None):
        result = run(ATTACKS[name](steps=5, mask=mask), retinanet, batch)
        ends.append(result.losses[0])
    assert ends == sorted(ends) and ends[0] < ends[1] < ends[2]


@every_attack
def test_an_image_without_a_pixel_in_the_mask_stays_clean(retinanet, name):
    batch = batch_of([(3, 64, 64)] * 2, (0, 2))
    result = run(ATTACKS[name](mask='boxes'), retinanet, batch)
    assert torch.equal(result.inputs[0], batch['inputs'][0].float())
    assert math.isnan(result.losses[0])
    stats = result.stats
    assert (stats.images, stats.changed, stats.mask_empty) == (1, 1, 1)
    assert stats.zero_grads == stats.nonfinite_grads == 0
    nothing = run(ATTACKS[name](mask='boxes'), retinanet, batch_of(num_items=(0,)))
    assert nothing.stats.grad_evals == nothing.stats.queries == 0
    assert (nothing.stats.images, nothing.stats.mask_empty) == (0, 1)
    # There, all is background.
    everything = run(ATTACKS[name](mask='background'), retinanet, batch)
    assert everything.stats.mask_empty == 0 and everything.stats.images == 2


@pytest.mark.parametrize('attack', [RandomNoise, PGD])
def test_an_l2_budget_is_spent_inside(retinanet, attack):
    """Noise over the whole image, then cut, would leave a part of it."""
    batch = batch_of([(3, 64, 64)], (2,))
    batch['inputs'] = [torch.full((3, 64, 64), 120.0)]
    mask = (0.5, 0.5, 0.6, 0.6)
    (adv,) = attack(300, norm='l2', mask=mask)(retinanet, batch)
    assert (adv - 120).norm().item() == pytest.approx(300, rel=1e-3)


def test_the_random_start_fills_the_ball_of_the_mask():
    budget, x = Budget(100, 'l2'), torch.full((3, 40, 40), 120.0)
    mask = torch.zeros(40, 40, dtype=torch.bool)
    mask[3, 4] = True
    sizes = []
    for seed in range(40):
        noise = budget.sample(x, torch.Generator().manual_seed(seed), mask)
        assert not noise[:, ~mask].any()
        sizes.append(noise.norm().item() / 100)
    # Uniform in a ball of 3 dimensions: the median radius is 0.5 ** (1 / 3).
    assert np.median(sizes) == pytest.approx(0.79, abs=0.1) and min(sizes) < 0.6
    none = torch.zeros(40, 40, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    for draw in (budget.sample, budget.sample_edge):
        assert not draw(x, generator, none).any()


@pytest.mark.parametrize('norm, eps', [('linf', 8), ('l2', 50)])
@pytest.mark.parametrize(
    'rows, columns', [((7, 8), (3, 4)), ((0, 1), (0, 40)), ((39, 40), (20, 30))]
)
def test_squares_fit_into_the_thinnest_mask(norm, eps, rows, columns):
    attack, x = Square(eps, steps=100, norm=norm), torch.full((3, 40, 40), 100.0)
    mask = torch.zeros(40, 40, dtype=torch.bool)
    mask[slice(*rows), slice(*columns)] = True
    area, draw = Area.of(x, mask), torch.Generator().manual_seed(0)
    adv = attack._start(x, draw, area)
    for query in (1, 30, 99):
        painted = attack._paint(adv, x, query, draw, area)
        for each in (adv, painted):
            assert torch.equal(each[:, ~mask], x[:, ~mask])
            assert torch.isfinite(each).all()
        adv = painted
    assert (adv != x).any()
    if norm == 'linf':
        assert ((adv - x)[:, mask].abs() == eps).all()


def test_squares_that_miss_the_mask_are_drawn_anew():
    mask = torch.zeros(40, 40, dtype=torch.bool)
    mask[:, 0] = mask[:, 39] = True
    area, draw = Area.of(torch.zeros(3, 40, 40), mask), torch.Generator().manual_seed(0)
    met = [mask[area.square(20, draw)[1:]].any().item() for _ in range(50)]
    assert sum(met) > 35  # of one draw each: about 5


def test_a_mask_of_ones_own_that_does_not_fit_is_one_sentence(retinanet):
    class Small(Boxes):
        def of(self, frame, sample):
            return torch.ones(2, 2, dtype=torch.bool)

    with pytest.raises(ValueError, match=r'of shape \(2, 2\) for an image of \(64, 96'):
        PGD(mask=Small())(retinanet, batch_of())


def test_an_attack_of_ones_own_that_forgets_the_mask_keeps_it(retinanet):
    class Everywhere(Attack):
        def perturb(self, oracle, group, stats):
            return [x + 50 for x in group.pixels], [math.nan] * len(group.pixels)

    batch = batch_of([(3, 64, 64)])
    (adv,) = Everywhere(8, mask=LEFT)(retinanet, batch)
    x = batch['inputs'][0].float()
    assert torch.equal(adv[..., 32:], x[..., 32:]) and (adv != x)[..., :32].any()
