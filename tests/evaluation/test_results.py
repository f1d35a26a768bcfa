import copy
import json
import math
from pathlib import Path

import pytest
from builders import make_entry, make_results

from mmdiff.evaluation.checks import CODES, flag
from mmdiff.evaluation.entry import Sanity
from mmdiff.evaluation.report import build_page, read_reports
from mmdiff.evaluation.results import Results, RunSanity
from mmdiff.evaluation.schema_2 import code_of

# Written by version 0.1, on 200 photographs of VOC.
SCHEMA_2 = Path(__file__).parents[1] / 'data' / 'robustness_schema_2.json'


def test_a_file_is_read_back_as_it_was_written(tmp_path):
    sanity = RunSanity(16, 0, 3, 'pgd at eps=8', {'clean': 0.8, 'longer': 0.1}, 1.5)
    results = make_results(sanity=sanity, gallery=[{'image_id': 3, 'file': 'a.png'}])
    results.write(tmp_path / 'sub' / 'robustness.json')
    assert Results.read(tmp_path / 'sub' / 'robustness.json') == results
    assert [p.name for p in (tmp_path / 'sub').iterdir()] == ['robustness.json']
    raw = results.to_json()
    assert raw['sanity']['longer'] == 0.1 and 'square_objective' not in raw['sanity']
    assert raw['schema'] == 'mmdiff-robustness/3'


def test_one_flagged_row_makes_the_file_unreliable():
    results = make_results()
    assert not results.unreliable and results.reasons == []
    same = flag('blocked', 'pgd met nothing')
    results.entries[1].flags = [same]
    results.entries[2].flags = [same, flag('left_budget', 'pgd left')]
    assert results.unreliable
    assert results.reasons == ['pgd met nothing', 'pgd left']
    assert results.to_json()['reasons'] == results.reasons


def test_a_file_of_version_0_1_gives_the_same_values():
    """Of schema 2, which had other names for some things."""
    raw, results = json.loads(SCHEMA_2.read_text()), Results.read(SCHEMA_2)
    assert len(raw['results']) == len(results.entries) > 1
    for old, entry in zip(raw['results'], results.entries):
        assert entry.metrics == old['metrics']
        assert entry.value == old['metrics']['pascal_voc/mAP']
        assert entry.image_score == old['image_ap']
        assert entry.per_class == old['per_class']
        assert entry.num_images == old['num_images']
        assert entry.eps == old.get('eps') and entry.norm == old.get('norm')
        assert entry.reasons == old['reasons']
        assert all(f.code in CODES for f in entry.flags)
        assert vars(entry.cost) == old['cost']
        for name in ('steps', 'restarts', 'eot', 'objective'):
            assert entry.settings.get(name) == old.get(name)
        if 'sanity' in old:
            assert entry.sanity.max_delta == old['sanity']['max_delta']
            assert entry.sanity.losses == {
                int(k): v for k, v in old['sanity']['losses'].items()
            }
    roles = [old['role'] for old in raw['results']]
    assert roles.count('ensemble') == sum(
        entry.role == 'worst_case' for entry in results.entries
    )
    assert results.unreliable == raw['unreliable']
    assert results.reasons == raw['reasons']
    assert results.sanity.larger_canvas == raw['sanity']['larger_canvas']


def schema_2():
    """A file of schema 2 with all that was called otherwise."""
    cost = {'grad_evals': 0, 'queries': 0, 'seconds': 1.0, 'peak_mem': 1}
    base = {'reasons': [], 'num_images': 4, 'cost': cost, 'image_ap': 0.5}
    base['metrics'] = {'pascal_voc/mAP': 0.5}

    def row(attack, label, role, eps=None, **more):
        entry = {**base, 'attack': attack, 'label': label, 'role': role, **more}
        if role == 'clean':
            return {**entry, 'key': label}
        return {**entry, 'key': f'{label}_eps{eps}', 'norm': 'linf', 'eps': eps}

    told = 'noise_2 at eps=8 is not converged: more steps'
    rows = [
        row('clean', 'clean', 'clean'),
        row('noise', 'noise', 'control', 8),
        row('transfer', 'transfer_mim_total', 'attack', 8, inner='mim', source='a,b'),
        row('pgd', 'pgd_total', 'attack', 8, reasons=[told]),
        row('ensemble', 'ensemble', 'ensemble', 8, members=['pgd_total_eps8']),
    ]
    rows[3]['metrics_worst_case'] = {'pascal_voc/mAP': 0.25}
    return {
        'schema': 'mmdiff-robustness/2',
        'name': 'old',
        'protocol': 'adaptive',
        'results': rows,
        'unreliable': True,
        'reasons': [told],
        'sanity': {'images': 4, 'noise': 0.5, 'clean_runs_differ': 0},
        'complete': True,
    }


def test_names_of_schema_2_are_those_of_schema_3(tmp_path):
    results = Results.from_json(schema_2())
    clean, noise, transfer, pgd, worst = results.entries
    assert (noise.attack, noise.label, noise.key) == (
        'random_noise',
        'random_noise',
        'random_noise_eps8',
    )
    assert transfer.attack == 'mim' and transfer.label == 'transfer_mim_total'
    assert transfer.settings == {'source': 'a,b'}
    assert (worst.attack, worst.role, worst.key) == (
        'worst_case',
        'worst_case',
        'worst_case_eps8',
    )
    assert worst.members == [pgd.key]
    assert pgd.worst_restart == 0.25 and pgd.flags[0].code == 'not_converged'
    assert results.sanity.scores == {'random_noise': 0.5}
    assert clean.image_score == 0.5 and results.reasons == schema_2()['reasons']
    # As schema 3 it says the same.
    assert Results.from_json(results.to_json()) == results


def test_every_sentence_of_the_checks_has_its_code_in_schema_2():
    for sentence, code in {
        'pgd met no gradient at all on 4 images (a module ...)': 'blocked',
        'dag changed 41 of 95 images only': 'few_changed',
        'pgd did not raise its objective (2 to 1)': 'objective_not_raised',
        'pgd reaches an objective of 1, ...: its gradients are hidden': (
            'gradient_hidden'
        ),
        'a budget that hides everything: its gradients lead nowhere': (
            'gradients_lead_nowhere'
        ),
        'ensemble at eps=8: all its attacks are flagged': 'all_flagged',
        'something else': 'other',
    }.items():
        assert code_of(sentence) == code


def test_unreliable_without_a_row_to_blame_is_still_said():
    raw = make_results().to_json()
    results = Results.from_json({**raw, 'unreliable': True})
    assert results.reasons == ['the file says that it is unreliable, without a reason']
    results = Results.from_json({**raw, 'reasons': ['all is wrong']})
    assert results.reasons == ['all is wrong'] and results.flags[0].code == 'other'


def changed(**changes):
    raw = copy.deepcopy(make_results().to_json())
    raw['results'][1].update(changes)
    return raw


def with_rows(*entries):
    return make_results(entries=list(entries)).to_json()


@pytest.mark.parametrize(
    'raw, words',
    [
        ('no json', 'robustness.json is not JSON'),
        ([1], 'is no robustness report: its schema is None'),
        ({'loss': 1}, 'is no robustness report'),
        ({'a': {'schema': 'mmdiff-robustness/2'}}, 'is no robustness report'),
        ({'schema': 'mmdiff-robustness/1'}, "its schema is 'mmdiff-robustness/1'"),
        ({'schema': 'mmdiff-robustness/9'}, "its schema is 'mmdiff-robustness/9'"),
        (with_rows(make_entry()), 'has 0 clean entries'),
        (with_rows(make_entry('clean'), make_entry('clean')), 'has 2 clean entries'),
        ({**make_results().to_json(), 'results': None}, "report of 'prior' is damaged"),
        (changed(metrics={}), 'damaged'),
        (changed(metrics={'a/mAP': float('nan')}), 'damaged .ValueError: a/mAP is nan'),
        (changed(metrics={'a/mAP': '0.5'}), 'damaged'),
        (changed(role='hero'), 'role hero'),
    ],
)
def test_a_file_that_is_no_report_gets_a_sentence(tmp_path, raw, words):
    path = tmp_path / 'robustness.json'
    path.write_text(raw if isinstance(raw, str) else json.dumps(raw))
    with pytest.raises(ValueError, match=words) as error:
        Results.read(path)
    assert str(error.value).endswith('.') and '\n' not in str(error.value)
    with pytest.raises(FileNotFoundError, match='There is no file .*give a'):
        Results.read(tmp_path / 'none.json')


def test_a_class_without_objects_is_null_in_the_file_and_nan_when_read(tmp_path):
    results = make_results()
    row = results.entries[-1]
    row.metrics['coco/cat_precision'] = row.per_class['cat'] = math.nan
    row.sanity = Sanity(losses={0: math.inf}, objective_ends=(1.0, math.nan))
    results.clean.per_class['cat'] = math.nan
    results.sanity = RunSanity(scores={'random_noise': math.nan})
    results.write(tmp_path / 'robustness.json')
    text = (tmp_path / 'robustness.json').read_text()
    assert 'NaN' not in text and 'Infinity' not in text
    again = Results.read(tmp_path / 'robustness.json')
    row = again.entries[-1]
    assert math.isnan(row.metrics['coco/cat_precision'])
    assert math.isnan(row.per_class['cat']) and math.isnan(row.sanity.losses[0])
    assert math.isnan(again.sanity.scores['random_noise'])
    page = build_page(read_reports([tmp_path / 'robustness.json']))
    assert 'cat' not in page.classes
    again.write(tmp_path / 'again.json')
    assert (tmp_path / 'again.json').read_text() == text


def test_a_row_without_its_main_metric_is_damaged(tmp_path):
    results = make_results()
    metrics = results.entries[-1].metrics
    metrics[results.entries[-1].metric] = math.nan
    results.write(tmp_path / 'robustness.json')
    with pytest.raises(ValueError, match='is damaged'):
        Results.read(tmp_path / 'robustness.json')
