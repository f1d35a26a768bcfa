"""What probes found, judged: each flag, and what is close by and sound."""

import pytest
from builders import make_entry

from mmdiff.attacks.probes.findings import ModelProbe, ObjectiveProbe, Probes
from mmdiff.evaluation.checks import check_probes, check_rise
from mmdiff.evaluation.results import RunSanity

SOUND = dict(images=3, objects=8, objects_handed=8)


def model_flags(**changes):
    probes = Probes(ModelProbe(**{**SOUND, **changes}))
    return [flag.code for flag in check_probes(probes, 'total')]


def gradient_flags(best=0.99, **changes):
    probe = ObjectiveProbe('total', 3, best_agreement=best, **changes)
    return check_probes(Probes(ModelProbe(**SOUND), [probe]), 'total')


@pytest.mark.parametrize(
    'code, broken, sound',
    [
        ('other_with_gradients', dict(grad_gap=0.01), dict(grad_gap=1e-4)),
        ('other_under_attack', dict(flag_gap=0.01), dict(flag_gap=1e-4)),
        ('other_under_attack', dict(input_gap=0.01), dict(input_gap=1e-4)),
        ('other_under_attack', dict(test_gap=0.01), dict(test_gap=None)),
        ('noise_without_seed', dict(repeat_gap=0.01, grad_gap=0.01), {}),
        ('other_truth', dict(objects_handed=7), {}),
        ('other_truth', dict(objects_misplaced=1), {}),
        ('objects_ignored', dict(objects_ignored=4), dict(objects_ignored=2)),
        ('truth_at_other_scale', dict(fit={'2': 3.0}), dict(fit={'2': 1.4})),
        ('other_truth', dict(fit_classes={'+1': 3.0}), dict(fit_classes={'+1': 1.4})),
        ('other_under_attack', dict(head_gap=0.01), dict(head_gap=1e-4)),
        ('other_under_attack', dict(more_calls=1), dict(more_calls=-1)),
        ('reads_truth', dict(truth_read=1), {}),
        (
            'zero_gradients',
            dict(blind_share=0.3, blind_change=0.2),
            dict(blind_share=0.3),
        ),
        ('predictions_stuck', dict(stuck=1), {}),
        ('predictions_stuck', dict(name_read=1), {}),
    ],
)
def test_gaps_that_rounding_and_luck_do_not_explain_are_flagged(code, broken, sound):
    assert model_flags(**broken) == [code]
    assert model_flags(**sound) == []


def test_a_gradient_is_judged_by_its_parts():
    assert gradient_flags(parts={'feature map 0': 0.98}) == []
    (flag,) = gradient_flags(parts={'feature map 0': 0.99, 'feature map 2': 0.4})
    assert flag.code == 'gradient_wrong'
    assert 'that of feature map 2 has a correlation of 0.40' in flag.text


def test_a_loss_may_leave_out_the_gradient_of_its_targets():
    heads = {'bbox_head output 0': 0.99}
    assert gradient_flags(0.64, parts=heads) == []
    assert [f.code for f in gradient_flags(0.4, parts=heads)] == ['gradient_wrong']
    assert [f.code for f in gradient_flags(0.64)] == ['gradient_wrong']


def test_jumps_are_another_fault_than_a_cut():
    (flag,) = gradient_flags(0.4, steadiness=0.3, parts={'bbox_head output 0': 0.99})
    assert flag.code == 'objective_jagged'
    assert gradient_flags(0.6, steadiness=0.3) == []
    smooth, rough = ({'feature map 1': c} for c in (0.98, 0.6))
    assert gradient_flags(0.99, smoothness=smooth) == []
    (flag,) = gradient_flags(0.99, smoothness=rough)
    assert flag.code == 'objective_jagged' and 'feature map 1' in flag.text
    (flag,) = gradient_flags(0.5, steadiness=0.3, parts={'feature map 0': 0.4})
    assert flag.code == 'gradient_wrong'


def test_gradients_of_feature_maps_are_of_one_size():
    even, uneven = {'feature map 0': 9.9, 'feature map 1': 10.1}, {'a': 1.0, 'b': 100.0}
    assert gradient_flags(gains=even) == []
    (flag,) = gradient_flags(gains=uneven)
    assert flag.code == 'gradient_wrong' and '100 times that of another' in flag.text


def test_reference_points_are_stopped_by_design():
    assert gradient_flags(0.3, refines=True) == []
    (flag,) = gradient_flags(0.99, refines=True, parts={'feature map 0': 0.3})
    assert flag.code == 'gradient_wrong'


def test_an_objective_that_differs_by_itself_cannot_be_checked():
    flags = gradient_flags(0.1, repeat_gap=0.1, grad_gap=0.1)
    assert [flag.code for flag in flags] == ['noise_without_seed']
    flags = gradient_flags(0.1, grad_gap=0.1)
    assert [flag.code for flag in flags] == ['other_with_gradients']


def test_only_the_objective_of_a_row_is_judged():
    probe = ObjectiveProbe('cls', 3, best_agreement=0.1)
    assert check_probes(Probes(ModelProbe(**SOUND), [probe]), 'total') == []


@pytest.mark.parametrize('last, flagged', [(12.0, True), (14.0, False)])
def test_the_last_iterate_must_rise_by_more_than_luck(last, flagged):
    probe = ObjectiveProbe('total', 3, noise_rise={'Linf 8': 0.1})
    losses = {0: 10.0, 1: 99.0, 2: last}  # summed over ten images
    row = make_entry(sanity={'losses': losses})
    row.settings['objective'] = 'total'
    flags = check_rise(row, Probes(objectives=[probe]))
    assert [flag.code for flag in flags] == ['objective_not_raised'] * flagged


def test_the_report_keeps_what_was_probed():
    probes = Probes(ModelProbe(**SOUND), [ObjectiveProbe('cls', 3, best_agreement=0.5)])
    sanity = RunSanity(3, probes=probes)
    assert RunSanity.from_json(sanity.to_json()) == sanity
    assert 'a correlation of 0.500 (cls) on 3 images' in probes.summary()
    assert Probes().summary() == ''
