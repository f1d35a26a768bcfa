"""What is to run and how it is called: without a model."""

import pytest

from mmdiff.attacks import APGD, DAG, MIM, PGD, RandomNoise, Square
from mmdiff.engine.loops.robust_plan import (
    RobustPlan,
    Run,
    build_attacks,
    controls,
    make_entry,
    make_steps,
    split_restarts,
    with_settings,
)


def plan_of(*attacks, skip_fooled=False):
    return RobustPlan(attacks, 10, 4, 2500, skip_fooled)


def test_a_list_of_budgets_is_one_attack_each():
    attacks = build_attacks([{'type': 'PGD', 'eps': [2, 4]}, PGD(eps=8)])
    assert [attack.eps for attack in attacks] == [2, 4, 8]
    assert build_attacks([{'type': 'DAG'}])[0].eps is None
    assert build_attacks([{'type': 'mmdiff.DAG', 'eps': None}])[0].eps is None


@pytest.mark.parametrize(
    'attack, key, role',
    [
        (PGD(eps=4), 'pgd_total_eps4', 'attack'),
        (PGD(eps=500, norm='l2'), 'pgd_total_l2_eps500', 'attack'),
        (DAG(), 'dag_targets', 'attack'),
        (RandomNoise(eps=8), 'random_noise_eps8', 'control'),
        (MIM(eps=4, source='a.py,b.pth'), 'transfer_mim_total_eps4', 'attack'),
        (PGD(eps=4, mask='boxes'), 'pgd_total_boxes_eps4', 'attack'),
        (DAG(mask='background'), 'dag_targets_background', 'attack'),
        (
            RandomNoise(4, mask=(0, 0, 1, 0.5)),
            'random_noise_rectangle_0_0_1_0.5_eps4',
            'control',
        ),
    ],
)
def test_rows_are_called_by_attack_objective_and_budget(attack, key, role):
    entry = make_entry(attack)
    assert (entry.key, entry.role) == (key, role)
    assert entry.attack == attack.name and entry.budget == attack.budget


def test_rows_name_all_settings_of_the_attack():
    entry = make_entry(PGD(eps=4, steps=7, eot=2))
    assert entry.steps == 7 and entry.eot == 2 and entry.settings['seed'] == 0
    assert not {'eps', 'norm', 'mask', 'attack'} & set(entry.settings)


def test_rows_of_one_label_and_budget_are_numbered():
    steps = make_steps([PGD(eps=4), PGD(eps=4, seed=1), PGD(eps=8)], 10)
    keys = [step.entry.key for step in steps]
    assert keys == ['pgd_total_eps4', 'pgd_total_2_eps4', 'pgd_total_eps8']
    assert [step.runs[0].name for step in steps] == keys


def test_restarts_run_one_by_one_with_their_own_starts():
    runs = split_restarts(PGD(restarts=3, restart_offset=2), 'pgd', 10)
    assert [run.name for run in runs] == [f'pgd restart {k}' for k in range(3)]
    assert [run.attack.restart_offset for run in runs] == [2, 3, 4]
    assert {run.attack.restarts for run in runs} == {1}
    (one,) = split_restarts(DAG(eps=4), 'dag', 10)
    assert one.name == 'dag' and one.num_images == 10


def test_small_budgets_come_first_and_the_report_keeps_the_order_given():
    plan = plan_of(PGD(eps=8), DAG(), PGD(eps=2), APGD(eps=8))
    assert [step.entry.eps for step in plan.steps] == [2, 8, 8, None]
    assert [step.entry.eps for step in plan.in_order] == [8, None, 2, 8]
    assert [plan.ends_budget(step) for step in plan.steps] == [True, False, True, True]


def test_masked_attacks_come_before_those_without_that_count_them():
    plan = plan_of(PGD(eps=8), PGD(eps=8, mask='boxes'), PGD(eps=2, mask='boxes'))
    budgets = [str(step.entry.budget) for step in plan.steps]
    assert budgets == ['Linf 2, mask boxes', 'Linf 8, mask boxes', 'Linf 8']
    assert all(plan.ends_budget(step) for step in plan.steps)


def test_controls_have_the_mask_of_their_attack():
    for attack in (PGD(eps=4, mask='boxes'), DAG(eps=4, mask='boxes')):
        made = controls(attack, 2500).values()
        assert {str(control.mask) for control in made} == {'boxes'}


def test_budgets_of_two_norms_end_by_themselves():
    plan = plan_of(PGD(eps=8), PGD(eps=8, norm='l2'))
    assert [plan.ends_budget(step) for step in plan.steps] == [True, True]


def test_runs_are_clean_again_attacks_and_controls_in_order():
    plan = plan_of(PGD(eps=4, restarts=2), RandomNoise(eps=4))
    names = [run.name for run in plan.runs]
    assert names == [
        'clean',
        'again',
        'pgd_total_eps4 restart 0',
        'pgd_total_eps4 restart 1',
        'random_noise_eps4',
        'control random_noise',
        'control longer',
        'control large',
        'control square',
    ]
    assert [run.num_images for run in plan.runs] == [10, 4, 10, 10, 10, 4, 4, 4, 4]


@pytest.mark.parametrize(
    'attacks, checked',
    [
        ((DAG(eps=4), PGD(eps=2), PGD(eps=8), APGD(eps=16)), 'pgd_total_eps8'),
        ((MIM(eps=8, source='a,b'), PGD(eps=2)), 'pgd_total_eps2'),
        ((RandomNoise(eps=8), DAG(eps=4)), 'dag_targets_eps4'),
        ((RandomNoise(eps=8), DAG()), None),  # without a budget nothing compares
        ((PGD(eps=0),), None),
        ((PGD(eps=8, mask='boxes'), APGD(eps=4), APGD(eps=2)), 'apgd_total_eps4'),
        ((PGD(eps=8, mask='boxes'), DAG(eps=4)), 'pgd_total_boxes_eps8'),
        ((), None),
    ],
)
def test_the_first_gradient_attack_is_checked_at_its_largest_budget(attacks, checked):
    plan = plan_of(*attacks)
    assert (plan.checked and plan.checked.entry.key) == checked
    assert bool(plan.controls) == (checked is not None)


def test_the_checked_attack_runs_in_full_where_the_fooled_are_skipped():
    """Else images that other attacks brought down would count for this one."""
    attack = PGD(eps=8)
    assert 'attacked' not in plan_of(attack).controls
    run = plan_of(attack, skip_fooled=True).controls['attacked']
    assert run.attack is attack and run.num_images == 4


def test_gradients_weigh_three_passes():
    assert Run('', None, 1).weight == 2
    assert Run('', PGD(steps=10, eot=2), 1).weight == 62
    assert Run('', Square(steps=10), 1).weight == 12


def test_settings_that_an_attack_does_not_have_are_left_out():
    dag = with_settings(DAG(gamma=2), steps=7, restarts=3)
    expected = {**DAG(gamma=2).threat_model(), 'steps': 7}
    assert dag.threat_model() == expected


def test_controls_are_like_the_attack_but_for_one_thing():
    attack = PGD(eps=4, steps=20, step_size=0.1, objective='cls', quantize=True, seed=3)
    made = controls(attack, 2500)
    assert list(made) == ['random_noise', 'longer', 'large', 'square']
    assert made['longer'].steps == 40 and made['longer'].step_size == 0.1
    assert made['large'].eps == 64 and made['large'].objective == 'cls'
    assert made['large'].step_size == 4
    assert isinstance(made['random_noise'], RandomNoise)
    assert made['random_noise'].eps == 4
    assert made['square'].steps == 60 and made['square'].objective == 'cls'
    assert all(a.seed == 3 and a.quantize for a in made.values())


@pytest.mark.parametrize(
    'objective, large',
    [
        ('lagrange', 'total'),
        (dict(type='Lagrange', inner='cw'), 'cw'),
        (dict(type='mmdiff.Lagrange', inner='vanishing'), 'total'),
    ],
)
def test_a_huge_budget_is_not_spent_on_likely_images(objective, large):
    made = controls(PGD(eps=4, objective=objective), 2500)
    assert made['large'].objective == large
    assert made['longer'].objective == made['square'].objective == objective


def test_more_steps_are_at_least_ten_more_and_get_shorter():
    one = controls(PGD(eps=8, steps=1, step_size=8), 2500)
    assert one['longer'].steps == 11 and one['longer'].step_size == 20 / 11
    falling = controls(PGD(eps=8, steps=5), 2500)
    assert falling['longer'].steps == 15 and falling['longer'].step_size is None
    assert falling['large'].step_size is None
    assert controls(APGD(steps=3), 2500)['longer'].steps == 13


def test_a_huge_budget_in_l2_is_as_large_for_every_value():
    two = controls(PGD(eps=300, norm='l2'), 2500)
    assert two['square'].norm == 'l2' and two['large'].eps == 64 * 50


def test_attacks_without_gradients_of_the_model_have_fewer_controls():
    dag = controls(DAG(eps=4, steps=30), 2500)
    assert set(dag) == {'random_noise', 'longer'} and dag['longer'].steps == 60
    assert list(controls(MIM(source='a.py,b.pth'), 2500)) == ['random_noise']
