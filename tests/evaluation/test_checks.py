import math
import re

import numpy as np
import pytest
from builders import make_entry, make_record

from mmdiff.attacks import Budget
from mmdiff.evaluation.checks import (
    CODES,
    check_clean,
    check_controls,
    check_entry,
    check_members,
    check_randomness,
    check_rows,
    check_scores,
    check_search,
    count_differing,
    flag,
)
from mmdiff.evaluation.entry import Entry
from mmdiff.evaluation.evaluations import Evaluations

CLEAN = make_entry('clean', 0.5)
SCORE = 'mean AP per image'


def codes(flags):
    return [f.code for f in flags]


@pytest.mark.parametrize(
    'code, broken, words',
    [
        ('raised_metric', make_entry(value=0.6), r'\(0.500 to 0.600\)'),
        (
            'few_changed',
            make_entry(sanity={'changed': 4, 'changed_share': 0.4}),
            'changed 4 of 10 images only',
        ),
        (
            'objective_not_raised',
            make_entry(sanity={'objective_ends': (2.0, 1.5)}),
            r'raise its objective \(2 to 1.5\)',
        ),
        (
            'nonfinite_gradients',
            make_entry(sanity={'nonfinite_grads': 3}),
            '3 non-finite gradients',
        ),
        (
            'zero_gradients',
            make_entry(sanity={'zero_grads': 50, 'zero_share': 0.5}),
            '50 gradients of 100 that were zero',
        ),
        (
            'blocked',
            make_entry(sanity={'blocked': 10, 'changed': 0, 'changed_share': 0.0}),
            'no gradient at all on 10 images',
        ),
        ('left_budget', make_entry(sanity={'max_delta': 9.0}), 'a change of 9'),
        (
            'attacked_padding',
            make_entry(sanity={'padding_changed': 1}),
            'the padding of 1 images',
        ),
        (
            'not_as_reported',
            make_entry(sanity={'asked_again': 8, 'misreported': 1}),
            r'hands on \(1 of 8\)',
        ),
        (
            'left_pixel_range',
            make_entry(sanity={'pixel_max': 256.0}),
            'range of pixels: 0 to 256',
        ),
    ],
)
def test_what_makes_a_row_hard_to_believe_gets_its_flag(code, broken, words):
    (found,) = check_entry(broken, CLEAN)
    assert found.code == code
    assert found.text.startswith('pgd at eps=8 ')
    assert re.search(words, found.text)


def test_images_given_back_clean_after_an_attempt_are_no_sign_of_no_attack():
    kept = dict(changed=2, changed_share=0.2)
    (found,) = check_entry(make_entry(sanity=kept), CLEAN)
    assert found.code == 'few_changed'
    assert check_entry(make_entry(sanity={**kept, 'returned_clean': 8}), CLEAN) == []


def test_what_chance_can_do_is_believed():
    assert check_entry(make_entry(), CLEAN) == []
    # One class of one image may turn by chance, if there are few.
    assert check_entry(make_entry(value=0.51), CLEAN) == []
    assert check_entry(make_entry(value=0.51, images=1000), CLEAN)
    still = {'changed': 0, 'changed_share': 0.0, 'max_delta': 0.0}
    assert check_entry(make_entry(eps=0, sanity=still), CLEAN) == []
    assert check_entry(make_entry(sanity={'zero_share': 0.1}), CLEAN) == []


def test_a_mask_without_a_pixel_on_any_image_is_flagged():
    nothing = {'images': 0, 'changed': 0, 'changed_share': 0.0, 'mask_empty': 10}
    nothing = {**nothing, 'objective_ends': None}
    (found,) = check_entry(make_entry(sanity=nothing), CLEAN)
    assert found.code == 'few_changed' and 'no pixel on any' in found.text
    # The others were fooled before.
    assert check_entry(make_entry(sanity=nothing, cumulative=True), CLEAN) == []
    some = {**nothing, 'images': 1, 'changed': 1, 'changed_share': 1.0}
    assert check_entry(make_entry(sanity=some), CLEAN) == []


def test_a_control_may_leave_the_metric_as_it_is():
    assert check_entry(make_entry('random_noise', 0.6), CLEAN) == []


def test_a_code_without_an_explanation_is_refused():
    with pytest.raises(ValueError, match="code='odd' is unknown; explain it in CODES"):
        flag('odd', 'pgd is odd')
    assert all(text.endswith('.') for text in CODES.values())


def test_a_clean_metric_of_zero_is_flagged():
    assert codes(check_clean(make_entry('clean', 0.0))) == ['clean_is_zero']
    assert check_clean(CLEAN) == []


def test_images_of_few_classes_are_flagged():
    clean = make_entry('clean', 0.5)
    clean.num_images, clean.per_class = 64, {'cat': 0.5}
    assert codes(check_clean(clean, 10)) == ['few_classes']
    assert check_clean(clean) == check_clean(clean, 1) == []
    clean.num_images = 2  # of a thousand classes two images can be of two
    clean.per_class = {'cat': 0.0, 'dog': 1.0}
    assert check_clean(clean, 1000) == []


@pytest.mark.parametrize(
    'objective, spread, expected',
    [
        ('ce', 0.0, ['scores_flat']),
        ('total', 0.04, ['scores_flat']),
        ('ce', 0.06, []),
        ('dlr', 0.0, []),
        ('lagrange', 0.0, ['scores_flat']),
        ({'type': 'Lagrange', 'inner': 'cw'}, 0.0, []),
        ('ce', None, []),  # of detectors
    ],
)
def test_equal_scores_hide_the_closest_class_from_the_cross_entropy(
    objective, spread, expected
):
    entry = make_entry('pgd', settings={'objective': objective})
    assert codes(check_scores(entry, spread)) == expected
    entry.settings['source'] = 'CONFIG,CKPT'  # whose scores nobody has seen
    assert check_scores(entry, spread) == []


def test_equal_scores_hide_it_from_attacks_of_torchattacks():
    for name, expected in {'torch_pgd': ['scores_flat'], 'torch_cw': []}.items():
        assert codes(check_scores(make_entry(name, settings={}), 0.0)) == expected


def test_a_metric_that_chance_raised_is_not_flagged():
    clean = make_entry('clean', 0.4)
    clean.evaluations = Evaluations([0, 1], [0.3, 0.5])
    raised = make_entry(value=0.5)
    assert [f.code for f in check_entry(raised, make_entry('clean', 0.4))] == [
        'raised_metric'
    ]
    assert check_entry(raised, clean) == []
    raised.metrics['pascal_voc/mAP'] = 0.61  # the error of the clean mean is 0.1
    assert [f.code for f in check_entry(raised, clean)] == ['raised_metric']


def test_a_worst_case_of_single_draws_is_flagged():
    worst = make_entry('worst_case')
    (flag,) = check_randomness(worst, 2, 4)
    assert flag.code == 'lucky_draws' and flag.text.endswith('set evaluations=8')
    assert check_randomness(worst, 2, 4, 2) == check_randomness(worst, 0, 4) == []


def test_one_pass_on_a_randomised_model_is_flagged_with_the_cure():
    (found,) = check_randomness(make_entry(), 2, 4)
    assert found.code == 'randomised'
    assert found.text.endswith(
        'two clean runs differ on 2 of 4 images: randomised, set eot, and '
        'evaluations=8 for the mean of as many draws'
    )
    assert check_randomness(make_entry(), 2, 4, 3)[0].text.endswith(', set eot')
    without = make_entry(settings={'steps': 3})
    assert 'it has no eot to set' in check_randomness(without, 2, 4)[0].text
    assert check_randomness(make_entry(settings={'eot': 4}), 2, 4) == []
    assert check_randomness(make_entry(), 0, 4) == []
    assert check_randomness(make_entry('random_noise'), 2, 4) == []


def test_clean_runs_are_compared_image_by_image():
    first = make_record([1] * 3, predictions=[{'x': k} for k in range(3)])
    second = make_record([1] * 2, predictions=[{'x': 0}, {'x': 5}])
    assert count_differing(first, second, lambda a, b: a != b) == 1


def good_controls():
    return {
        'random_noise': make_record([0.75] * 16),
        'longer': make_record([0.25] * 16),
        'large': make_record([0.02] * 16),
        'square': make_record([0.7] * 16, [1.0] * 16),
    }


def compare(**controls):
    clean, hit = make_record([0.8] * 20), make_record([0.3] * 20)
    controls = {**good_controls(), **controls}
    return check_controls(make_entry(), clean, hit, controls, SCORE)


def test_controls_of_a_healthy_attack_raise_no_flag():
    sanity, flags = compare()
    assert flags == []
    assert sanity.images == 16 and sanity.attack == 'pgd at eps=8'
    assert sanity.scores == pytest.approx(
        {
            'clean': 0.8,
            'attacked': 0.3,
            'random_noise': 0.75,
            'longer': 0.25,
            'large': 0.02,
            'square': 0.7,
        }
    )
    assert (sanity.objective, sanity.square_objective) == (2, 1)


@pytest.mark.parametrize(
    'name, bad, code, words',
    [
        (
            'random_noise',
            make_record([0.1] * 16),
            'weaker_than_noise',
            r'noise of its size \(mean AP per image 0.300 against 0.100\)',
        ),
        ('longer', make_record([0.1] * 16), 'not_converged', 'from 0.300 to 0.100'),
        ('large', make_record([0.3] * 16), 'gradients_lead_nowhere', 'clean 0.800'),
        (
            'square',
            make_record([0.7] * 16, [2.2] * 16),
            'gradient_hidden',
            'from 2 to 2, black-box search to 2.2',
        ),
    ],
)
def test_a_control_that_does_better_is_named(name, bad, code, words):
    (found,) = compare(**{name: bad})[1]
    assert found.code == code and found.text.startswith('pgd at eps=8 ')
    assert re.search(words, found.text)


def test_a_model_so_weak_that_random_changes_do_much_hides_no_gradient():
    """As YOLOX-Nano at 8/255: black-box search gets half of the objective there."""
    square = make_record([0.2] * 16, [2.2] * 16)
    controls = {**good_controls(), 'square': square}
    clean = make_record([0.8] * 16)

    def check(left):
        hit = make_record([left] * 16)
        return codes(check_controls(make_entry(), clean, hit, controls, SCORE)[1])

    assert 'gradient_hidden' in check(0.3)
    assert check(0.05) == []


def test_an_attack_that_hides_all_within_its_budget_leads_somewhere():
    """Whatever a huge budget leaves: its loss may grow without hiding more."""
    large, longer = make_record([0.3] * 16), make_record([0.05] * 16)
    assert codes(compare(large=large, longer=longer)[1]) == ['not_converged']
    assert codes(compare(large=large)[1]) == ['gradients_lead_nowhere']


def test_images_left_out_and_the_luck_of_one_image_decide_nothing():
    square = make_record([0.7] * 16, [math.nan] * 15 + [2.0])
    longer = make_record([0.3] * 15 + [0.0])
    assert compare(square=square, longer=longer)[1] == []


def test_no_budget_hides_everything_in_a_mask():
    clean, hit = make_record([0.8] * 16), make_record([0.6] * 16)
    entry = make_entry(budget=Budget(8, mask='boxes'))

    def check(large):
        controls = {'random_noise': make_record([0.75] * 16), 'large': large}
        return check_controls(entry, clean, hit, controls, SCORE)[1]

    assert check(make_record([0.5] * 16)) == []
    (found,) = check(make_record([0.75] * 16))
    assert found.code == 'gradients_lead_nowhere' and 'same mask 0.750' in found.text


def test_images_that_a_mask_leaves_out_count_in_no_mean():
    """Half of 16 images: 8 objectives rise from 2 each, black-box search from 1.9."""
    half = [math.nan] * 8
    hit = make_record([0.3] * 16, [*half, *[4.0] * 8])
    longer = make_record([0.25] * 16, [*half, *[4.0] * 8])
    longer.stats.losses = {0: 16.0, 1: 32.0}
    square = make_record([0.7] * 16, [*half, *[2.1] * 8])
    controls = {**good_controls(), 'longer': longer, 'square': square}
    clean = make_record([0.8] * 16)
    sanity, flags = check_controls(make_entry(), clean, hit, controls, SCORE)
    assert flags == [] and sanity.objective_start == 2


def test_an_attack_may_have_noise_as_its_only_control():
    clean, hit = make_record([0.8] * 4), make_record([0.3] * 4)
    controls = {'random_noise': make_record([0.75] * 4)}
    sanity, flags = check_controls(make_entry(), clean, hit, controls, 'accuracy')
    assert flags == [] and sanity.objective is None


def rows(**scores):
    return [make_entry(name, image_score=score) for name, score in scores.items()]


LARGE_SET = make_entry('clean', 0.8, images=100)


def flagged(made):
    check_rows(made, LARGE_SET, SCORE)
    return {row.label: codes(row.flags) for row in made if row.flags}


def test_rows_that_beat_noise_and_black_box_search_are_believed():
    made = rows(pgd=0.2, dag=0.4, square=0.5, mim=0.6, random_noise=0.7)
    made[3].settings['source'] = 'a,b'
    assert flagged(made) == {}


def test_objectives_that_lower_no_ap_are_not_compared_with_what_does():
    made = rows(pgd=0.6, dag=0.6, square=0.4, random_noise=0.5)
    for row, objective in zip(made, ('vanishing', 'detections')):
        row.settings['objective'] = objective
    assert flagged(made) == {'dag': ['weaker_than_noise', 'gradient_hidden']}


def test_rows_that_do_less_than_noise_or_black_box_search_are_flagged():
    made = rows(pgd=0.2, dag=0.5, square=0.4, mim=0.6, random_noise=0.55)
    made[3].settings['source'] = 'a,b'  # it sees no gradient: noise only
    assert flagged(made) == {'dag': ['gradient_hidden'], 'mim': ['weaker_than_noise']}
    assert made[1].flags[0].text.startswith('dag at eps=8 leaves a mean AP per image')
    assert '0.600 against 0.550' in made[3].flags[0].text


def test_black_box_search_on_another_model_says_nothing_of_this_one():
    made = rows(dag=0.5, square=0.4)
    made[1].settings['source'] = 'a,b'
    assert flagged(made) == {}


def test_rows_of_what_was_left_and_noise_that_does_nothing_say_nothing():
    made = rows(dag=0.5, square=0.4, random_noise=0.79)
    made[1].cumulative = True
    assert flagged(made) == {}


def test_a_worst_case_needs_one_member_to_be_believed():
    members = rows(pgd=0.2, dag=0.3)
    worst = Entry.worst_case(members[0].budget, [row.key for row in members])
    members[0].flags = [flag('blocked', 'pgd met nothing')]
    assert check_members(worst, members) == []
    members[1].flags = [flag('few_changed', 'dag changed nothing')]
    (found,) = check_members(worst, members)
    assert found.text == 'worst_case at eps=8: all its attacks are flagged'
    assert np.isfinite(worst.budget.radius)


@pytest.mark.parametrize(
    'sanity, expected',
    [
        ({}, []),
        ({'max_delta': 3.0}, ['budget_unused']),
        ({'losses': {0: 10.0, 5: 19.0}}, []),
        ({'losses': {0: 10.0, 5: 30.0}}, ['not_as_reported']),
    ],
)
def test_a_search_fills_its_budget_and_hands_on_what_it_found(sanity, expected):
    """Of ten images, whose mean objective ends at 2."""
    assert codes(check_search(make_entry(sanity=sanity))) == expected


@pytest.mark.parametrize(
    'step_size, steps, expected',
    [
        (64, 10, True),
        (64, 1, False),
        (16, 10, False),
        (0.8, 10, False),
        (0.75, 10, True),
        (4, 1, True),
    ],
)
def test_steps_that_cross_the_budget_or_never_can_do_not_converge(
    step_size, steps, expected
):
    entry = make_entry(settings={'step_size': step_size, 'steps': steps})
    assert codes(check_search(entry)) == ['not_converged'] * expected


@pytest.mark.parametrize(
    'norm, eps, expected',
    [
        ('linf', 8 / 255, True),
        ('linf', 0.5, False),
        ('linf', 0, False),
        ('l2', 0.5, True),
        ('l2', 3, True),
        ('l2', 128, False),
    ],
)
def test_a_fraction_of_one_is_no_budget_in_pixel_units(norm, eps, expected):
    entry = make_entry(budget=Budget(eps, norm))
    found = [one for one in check_entry(entry, CLEAN) if one.code == 'budget_tiny']
    assert len(found) == expected
    assert all('8/255 is eps=8' in one.text for one in found)


def test_images_with_nothing_to_lose_say_nothing_of_a_budget_that_hides_all():
    """What hides objects leaves no false alarm either where there are none: score 1."""
    hidden = make_record([0.02] * 12 + [1.0] * 4)
    clean, hit = make_record([0.8] * 16), make_record([0.3] * 12 + [1.0] * 4)
    controls = {**good_controls(), 'large': hidden, 'longer': hit}
    shown = [True] * 12 + [False] * 4
    sanity, flags = check_controls(make_entry(), clean, hit, controls, SCORE, shown)
    assert flags == [] and sanity.scores['large'] == pytest.approx(0.265)
    for of in (None, [False] * 4 + [True] * 12):
        _, (found,) = check_controls(make_entry(), clean, hit, controls, SCORE, of)
        assert found.code == 'gradients_lead_nowhere'
    controls['square'] = make_record([0.7] * 16, [2.2] * 16)
    nothing = [False] * 16
    _, (found,) = check_controls(make_entry(), clean, hit, controls, SCORE, nothing)
    assert found.code == 'gradient_hidden'


def test_an_attack_that_sees_nothing_may_turn_an_image_right():
    """One of 500 images more, as a transfer attack of no use gives."""
    clean = make_entry('clean', 0.4, images=500, image_scores=[1.0] * 200 + [0.0] * 300)

    def flags(count, **settings):
        scores = [1.0] * (200 + count) + [0.0] * (300 - count)
        value = sum(scores) / 500
        entry = make_entry('mim', value, images=500, image_scores=scores)
        entry.settings.update(settings)
        return [flag.code for flag in check_entry(entry, clean)]

    assert flags(1, source='other.py,other.pth') == []
    assert flags(1) == ['raised_metric']
    assert flags(25, source='other.py,other.pth') == ['raised_metric']
