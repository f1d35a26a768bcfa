"""Spatial attacks: displacements within a budget, and what is said of them."""

import pytest
import torch
from classifiers import make_batch, make_classifier, random_batch
from conftest import ask, batch_of, run

from mmdiff.attacks import APGD, PGD, Budget, RandomNoise, StAdv, oracle_of
from mmdiff.attacks.flow import (
    displace,
    lengths,
    random_flow,
    reach,
    roughness,
    shorten,
)
from mmdiff.attacks.probes import attack_and_look
from mmdiff.engine.loops.robust_plan import RobustPlan, controls
from mmdiff.engine.presets import attack_configs


def smooth_image(size=32, seed=0):
    """An image like a photograph: what is displaced a little changes a little."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 8, 8, generator=generator) * 255
    return torch.nn.functional.interpolate(coarse, size=size, mode='bilinear')[0]


def smooth_batch(count=2):
    images = torch.stack([smooth_image(seed=i) for i in range(count)])
    return make_batch(images.round().byte(), range(count))


def test_displacements_read_the_image_aside():
    x = smooth_image()
    flow = torch.zeros(2, 32, 32)
    assert torch.allclose(displace(x, flow), x, atol=1e-3)
    flow[0], flow[1] = 2, -1  # right by two columns, up by one row
    assert torch.allclose(displace(x, flow)[:, 1:, :-2], x[:, :-1, 2:], atol=1e-3)
    half = displace(x, torch.stack([torch.full((32, 32), 0.5), torch.zeros(32, 32)]))
    expected = (x[..., :-1] + x[..., 1:]) / 2
    assert torch.allclose(half[..., :-1], expected, atol=1e-3)


def test_flows_are_cut_in_length_and_smooth_ones_are_not_rough():
    generator = torch.Generator().manual_seed(0)
    flow = random_flow(smooth_image(), 3, generator)
    assert 2.8 < lengths(flow).max() <= 3 + 1e-5
    edge = random_flow(smooth_image(), 3, generator, edge=True)
    assert torch.allclose(lengths(edge), torch.tensor(3.0), atol=1e-5)
    short = shorten(flow, 1)
    assert lengths(short).max() <= 1 + 1e-6
    inside = lengths(flow) < 1
    assert torch.equal(short[:, inside], flow[:, inside])
    assert roughness(torch.ones(2, 32, 32)) < 0.3 < 1000 < roughness(flow)


@pytest.mark.parametrize('radius', [0.3, 1, 2.5])
def test_no_displacement_leaves_the_reach_and_other_changes_do(radius):
    x, budget = smooth_image(), Budget(radius, 'flow')
    generator = torch.Generator().manual_seed(0)
    lowest, highest = reach(x, radius)
    for edge in (False, True):
        moved = displace(x, random_flow(x, radius, generator, edge))
        assert (moved >= lowest - 1e-3).all() and (moved <= highest + 1e-3).all()
        assert budget.beyond(moved, x) < 1e-3
        assert torch.allclose(budget.project(moved, x), moved, atol=1e-3)
    other = (x + 60).clamp(max=255)
    assert budget.beyond(other, x) > 10
    assert budget.beyond(budget.project(other, x), x) == 0
    whole = x.round()
    moved = budget.round(displace(whole, random_flow(x, radius, generator)), whole)
    assert torch.equal(moved, moved.round()) and budget.beyond(moved, whole) == 0


def test_budgets_of_displacements_are_compared_with_their_own_kind_alone():
    flow = Budget(1, 'flow')
    assert flow in Budget(2, 'flow') and flow not in Budget(8) and Budget(1) not in flow
    assert str(flow) == 'Flow 1 px' and flow.suffix == '_flow_eps1'
    for ask_for in (flow.measure, flow.shrink, flow.direction):
        with pytest.raises(ValueError, match='no ball of changes of pixel values'):
            ask_for(torch.zeros(3, 2, 2))


def test_the_gradient_of_a_step_is_the_slope_along_the_flow():
    """One step of plain ascent, seen through Adam: the sign of every slope."""
    model, data = make_classifier(), smooth_batch(1)
    attack = StAdv(eps=1, steps=1, smoothness=0, objective='ce', random_start=True)
    question = ask(attack, model, data)
    (x,) = question.group.pixels
    trace = attack.begin(x, 'a', 0, None)
    start = trace.flow
    (grad,), losses = question.gradients([trace.adv], 0, 0)
    attack.update(trace, grad, losses.item(), 0)
    slopes = trace.first / 0.1
    generator = torch.Generator().manual_seed(1)
    along = torch.randn(slopes.shape, generator=generator) + 2 * slopes / slopes.std()
    ends = [
        question.losses([displace(x, start + side * 1e-3 * along)], 0, 0).item()
        for side in (1, -1)
    ]
    assert (slopes * along).sum().item() == pytest.approx(
        (ends[0] - ends[1]) / 2e-3, rel=0.05
    )


def test_a_classifier_is_attacked_within_the_budget_and_beyond_noise():
    model, data = make_classifier(), smooth_batch(3)
    attack = StAdv(eps=2, steps=20, objective='ce')
    oracle = oracle_of(model)
    result = attack_and_look(attack, oracle, data, [False] * 3)
    stats = result.stats
    assert 1 < stats.max_flow <= 2 + 1e-4 and stats.max_beyond < 1e-3
    assert stats.changed == 3 and stats.max_delta > 1 and stats.max_l2 > 0
    assert not stats.misreported
    question = ask(attack, model, data)
    clean = question.losses(question.group.pixels, 0, 0)
    noise = run(RandomNoise(eps=2, norm='flow'), model, data)
    by_noise = question.losses([*noise.inputs], 0, 0)
    assert (torch.tensor(result.losses) > clean).all()
    assert (torch.tensor(result.losses) - clean).sum() > 2 * (by_noise - clean).sum()
    # Alone and beside others an image ends alike.
    alone = {key: value[:1] for key, value in data.items()}
    assert run(attack, model, alone).losses[0] == pytest.approx(
        result.losses[0], rel=1e-4
    )


def test_smoothness_makes_flows_smooth():
    model, data, rough = make_classifier(), smooth_batch(1), []
    for weight in (0, 0.1):
        attack = StAdv(eps=2, steps=30, smoothness=weight, objective='ce')
        question = ask(attack, model, data)
        trace = attack.begin(question.group.pixels[0], 'a', 0, None)
        for step in range(30):
            (grad,), losses = question.gradients([trace.adv], 0, step)
            trace.adv = attack.update(trace, grad, losses.item(), step)
        rough.append((roughness(trace.flow) / lengths(trace.flow).sum()).item())
    assert rough[1] < 0.5 * rough[0]


def test_a_detector_is_attacked_and_padding_and_masks_are_left_alone(make_detector):
    model = make_detector('fcos', 'resnet')
    data = batch_of(((3, 64, 96),), (2,))
    data['inputs'][0] = smooth_image(96)[:, :64].round().byte()
    data['data_samples'][0].set_metainfo(dict(ori_shape=(64, 80)))
    attack = StAdv(eps=1, steps=4, mask=(0, 0, 0.5, 1))
    result = attack_and_look(attack, oracle_of(model), data, [False])
    delta = (result.inputs[0] - data['inputs'][0]).abs()
    assert delta[:, :, 40:].max() == 0 < delta[:, :, :40].max()
    assert 0.5 < result.stats.max_flow <= 1 + 1e-5
    assert not result.stats.padding_changed and not result.stats.misreported
    question = ask(attack, model, data)
    before = question.losses(question.group.pixels, 0, 0).item()
    assert result.losses[0] > before
    rounded = run(StAdv(eps=1, steps=2, quantize=True), model, data).inputs[0]
    assert torch.equal(rounded, rounded.round())


def test_restarts_after_the_first_start_elsewhere():
    attack, x = StAdv(eps=1, restarts=2), smooth_image()
    first, second = (attack.begin(x, 'a', restart, None) for restart in (0, 1))
    assert torch.equal(first.adv, x) and not first.flow.any() and second.flow.any()


def test_controls_of_displacements_are_displacements():
    made = controls(StAdv(eps=1, steps=10, step_size=0.5), 3 * 32 * 32)
    assert list(made) == ['random_noise', 'longer']
    assert made['random_noise'].budget == Budget(1, 'flow')
    assert made['longer'].steps == 20 and made['longer'].step_size == 0.125
    plan = RobustPlan([StAdv(eps=1)], 10, 4, 3 * 32 * 32)
    assert plan.checked.entry.key == 'stadv_total_flow_eps1'
    assert plan.checked.sees_gradients


@pytest.mark.parametrize(
    'make, words',
    [
        (lambda: StAdv(norm='linf'), "StAdv has budgets of norm=flow, not of 'linf'"),
        (lambda: PGD(norm='flow'), "PGD has budgets of norm=linf or l2, not of 'flow'"),
        (lambda: APGD(norm='l1'), "norm='l1' is unknown"),
        (lambda: StAdv(smoothness=-1), 'smoothness=-1 must not be negative'),
        (lambda: StAdv(eps=None), 'StAdv needs a budget'),
        (
            lambda: attack_configs('pgd,stadv', '2'),
            'eps=2 would be pixels of displacement for some',
        ),
        (
            lambda: attack_configs('stadv,noise', '1'),
            'random_noise displaces with norm=flow',
        ),
    ],
)
def test_mistakes_are_one_sentence(make, words):
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert '\n' not in str(caught.value)


def test_names_on_the_command_line():
    assert attack_configs('stadv', '0.5,1')[1] == {'type': 'mmdiff.StAdv', 'eps': 1.0}
    both = attack_configs('pgd,stadv')  # each with its own budget
    assert [config['type'] for config in both] == ['mmdiff.PGD', 'mmdiff.StAdv']
    (noise,) = attack_configs('noise', '1', norm='flow')
    assert noise['norm'] == 'flow'


def test_an_image_of_one_colour_cannot_be_changed():
    model, data = make_classifier(), random_batch(1)
    data['inputs'] = torch.full_like(data['inputs'], 127)
    stats = run(StAdv(eps=2, steps=2), model, data).stats
    assert stats.changed == 0 and stats.max_delta < 1e-3
