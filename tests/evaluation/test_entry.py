import json
import math

import pytest
from builders import make_entry

from mmdiff.attacks import AttackStats, Budget
from mmdiff.evaluation.checks import flag
from mmdiff.evaluation.entry import (
    Entry,
    Sanity,
    main_metric,
    main_metric_name,
)


def read_back(entry):
    return Entry.from_json(json.loads(json.dumps(entry.to_json())))


def test_a_row_is_read_back_as_it_was_written():
    entry = make_entry(
        sanity={'losses': {0: 1.5, 10: 2.25}},
        flags=[flag('not_converged', 'pgd at eps=8 is not converged')],
        metrics_worst_restart={'pascal_voc/mAP': 0.125},
        cumulative=True,
        per_class={'cat': 0.5},
    )
    entry.settings['source'] = None
    assert read_back(entry) == entry
    clean = make_entry('clean', 0.5)
    assert read_back(clean) == clean and 'eps' not in clean.to_json()
    worst = Entry.worst_case(Budget(4), ['pgd_eps4'])
    worst.metrics = {'a/mAP': 0.1}
    assert read_back(worst) == worst


def test_json_has_the_sentences_of_the_flags_as_reasons():
    entry = make_entry(flags=[flag('blocked', 'pgd met nothing')])
    raw = entry.to_json()
    assert raw['flags'] == [{'code': 'blocked', 'text': 'pgd met nothing'}]
    assert raw['reasons'] == ['pgd met nothing']


def test_a_mask_is_read_back_and_never_lost():
    budget = Budget(4, 'l2', 'rectangle 0,0,0.5,1')
    entry = make_entry(budget=budget)
    read = Entry.from_json(entry.to_json())
    assert read == entry and read.budget == budget != Budget(4, 'l2')
    assert 'mask' not in read.settings and 'mask' not in make_entry().to_json()
    assert Entry.worst_case(budget, []).key == 'worst_case_rectangle_0_0_0.5_1_l2_eps4'


def test_json_names_the_settings_of_the_attack_beside_the_budget():
    raw = make_entry(eps=None).to_json()
    assert raw['eps'] is None and raw['norm'] == 'linf' and raw['steps'] == 10


@pytest.mark.parametrize(
    'budget, key, name, where',
    [
        (Budget(4), 'pgd_eps4', 'pgd at eps=4', 'Linf 4'),
        (Budget(500, 'l2'), 'pgd_l2_eps500', 'pgd at eps=500', 'L2 500'),
        (Budget(), 'pgd', 'pgd at no budget', 'no budget'),
        (Budget(4, mask='boxes'), 'pgd_eps4', 'pgd at eps=4', 'Linf 4, mask boxes'),
    ],
)
def test_keys_and_names_say_the_budget(budget, key, name, where):
    entry = make_entry(budget=budget)
    assert (entry.key, entry.name, entry.where) == (key, name, where)
    entry.settings['quantize'] = True
    assert entry.where == f'{where}, uint8'


@pytest.mark.parametrize(
    'changes',
    [
        {'role': 'hero'},
        {'role': 'clean'},
        {'metrics': {'a/mAP': math.nan}},
        {'metrics': {'a/mAP': '0.5'}},
        {'norm': '<b>'},
        {'eps': -1},
        {'num_images': None},
    ],
)
def test_a_damaged_row_is_refused(changes):
    raw = {**make_entry().to_json(), **changes}
    with pytest.raises((KeyError, TypeError, ValueError)):
        Entry.from_json(raw)


def test_the_main_metric_is_the_map_or_the_accuracy_as_a_share():
    assert main_metric({'pascal_voc/AP50': 0.3, 'pascal_voc/mAP': 0.2}) == 0.2
    assert main_metric({'a': 1.0, 'coco/bbox_mAP': 0.4}) == 0.4
    assert main_metric({'accuracy/top1': 75.0, 'accuracy/top5': 100.0}) == 0.75
    assert main_metric_name({'b': 1.0, 'c': 2.0}) == 'b'
    # What CocoMetric says with classwise or 'proposal' comes first there.
    parts = {'coco/AR@100': 0.9, 'coco/cat_precision': 0.8, 'coco/bbox_mAP_50': 0.3}
    assert main_metric(parts) == 0.3


def test_shares_count_a_mean_over_passes_as_one_gradient():
    stats = AttackStats(images=10, changed=4, grad_evals=100, zero_grads=5)
    stats.nonfinite_grads = 2
    sanity = Sanity.of(stats, eot=2)
    assert sanity.changed_share == 0.4
    assert sanity.zero_share == 0.1  # 5 of 50 gradients
    assert sanity.nonfinite_share == 0.02
    assert Sanity.of(AttackStats()).changed_share == 0
