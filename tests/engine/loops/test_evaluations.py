"""Several evaluations of a model that draws, in the loop."""

import random
from dataclasses import dataclass
from multiprocessing.dummy import Pool as ThreadPool

import numpy as np
import pytest
import torch
from drawing import ATTACKS_OF_BOTH, Darken, Shift, make_runner, run
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner

from mmdiff.datasets.toy_shapes import make_toy_voc
from mmdiff.engine.loops.seeds import batch_seed, seeded
from mmdiff.evaluation.evaluations import describe_evaluations
from mmdiff.evaluation.report import build_page, read_reports, render, to_csv
from mmdiff.evaluation.tables import comparison_table, results_table
from mmdiff.utils.modules import seed_all

MAP = 'pascal_voc/mAP'


@pytest.fixture(autouse=True, scope='module')
def _threads():
    """VOCMetric forks four processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmdet.evaluation.functional.mean_ap.Pool', ThreadPool)
        yield


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return make_toy_voc(tmp_path_factory.mktemp('data') / 'toy', 1, 5, size=64)


@dataclass
class Done:
    """A run that is done."""

    runner: Runner
    rows: dict[str, dict]
    calls: int
    attacks: tuple[int, int]

    @property
    def out(self):
        return self.runner.test_loop.out

    @property
    def results(self):
        return self.runner.test_loop.results


def outcome_of(root, work, **settings):
    Shift.ran = Darken.ran = 0
    runner = make_runner(root, work, **settings)
    rows = run(runner)
    return Done(runner, rows, runner.model.calls, (Shift.ran, Darken.ran))


@pytest.fixture(scope='module')
def once(root, tmp_path_factory):
    """A model that draws, tested once."""
    return outcome_of(root, tmp_path_factory.mktemp('once'), name='once')


@pytest.fixture(scope='module')
def thrice(root, tmp_path_factory):
    """The same model, tested three times."""
    work = tmp_path_factory.mktemp('thrice')
    return outcome_of(root, work, name='thrice', evaluations=3)


@pytest.fixture
def runner(root, tmp_path):
    """``runner(work, **settings)``: a runner whose loop is to run."""

    def make(work='work', **settings):
        return make_runner(root, tmp_path / work, **settings)

    return make


def by_hand(runner, seed, name, shift):
    """mAP of one evaluation, batch by batch, with the seed that is recorded."""
    dataset, evaluator = runner.test_dataloader.dataset, runner.test_loop.evaluator
    for start in range(0, 5, 2):
        batch = pseudo_collate([dataset[i] for i in range(start, min(start + 2, 5))])
        inputs = [(x.float() + shift).clamp(0, 255) for x in batch['inputs']]
        seed_all(batch_seed(name, start, seed))
        outputs = runner.model.test_step(dict(batch, inputs=inputs))
        evaluator.process(data_samples=outputs)
    return evaluator.evaluate(5)[MAP]


def test_a_row_is_the_mean_of_evaluations_with_the_recorded_seeds(thrice):
    rows = thrice.rows
    for key, shift in (
        ('clean', 0),
        ('shift_total_eps8', 8),
        ('darken_total_eps8', -8),
    ):
        row = rows[key]
        several = row['evaluations']
        assert several['seeds'] == [0, 1, 2] and several['differing'] == 5
        expected = [
            by_hand(thrice.runner, seed, key, shift) for seed in several['seeds']
        ]
        assert several['values'] == expected and len(set(expected)) > 1
        assert row['metrics'][MAP] == pytest.approx(np.mean(expected))
        assert several['lowest'] == min(expected) <= row['metrics'][MAP]
        assert row['metrics'][MAP] <= several['highest'] == max(expected)
        low, high = row['interval']
        assert low <= row['metrics'][MAP] <= high
        assert row['image_score'] == pytest.approx(
            np.mean(row['image_scores']), abs=1e-5
        )


def test_evaluations_change_nothing_in_the_first_one(once, thrice):
    single, several = once.rows, thrice.rows
    for key in ('clean', 'shift_total_eps8', 'darken_total_eps8'):
        assert single[key]['metrics'][MAP] == several[key]['evaluations']['values'][0]
        assert 'evaluations' not in single[key]


def test_an_attack_runs_once_however_often_it_is_evaluated(thrice):
    # One to try, three batches; the control with more steps, two images.
    assert thrice.attacks == (1 + 3 + 1, 1 + 3)
    # Three rows, three times; again, repeated, noise, more steps: one batch each.
    assert thrice.calls == 3 * 3 * 3 + 4


class Killed(Exception):
    pass


def test_a_resumed_run_is_an_uninterrupted_one(runner, thrice):
    for calls in (2, 14, 10):  # in the clean run, in both attacks
        tested = runner('parts', evaluations=3)
        predict = tested.model.predict

        def dying(*args, tested=tested, calls=calls, predict=predict, **kwargs):
            if tested.model.calls == calls:
                raise Killed
            return predict(*args, **kwargs)

        tested.model.predict = dying
        with pytest.raises(Killed):
            tested.test()
    resumed = run(runner('parts', evaluations=3))
    for key, row in thrice.rows.items():
        assert {**resumed[key], 'cost': 0} == {**row, 'cost': 0}


def test_more_evaluations_go_on_from_fewer_and_fewer_take_the_first(runner, thrice):
    run(runner())
    three = run(runner(evaluations=3))
    assert three['clean']['metrics'] == thrice.rows['clean']['metrics']
    fewer = runner(evaluations=2)
    two = run(fewer)
    assert fewer.model.calls == 0
    for key in ('clean', 'shift_total_eps8'):
        values = three[key]['evaluations']['values']
        assert values == thrice.rows[key]['evaluations']['values']
        assert values[:2] == two[key]['evaluations']['values']


def test_the_worst_case_names_its_choices_and_is_above_no_row(runner):
    attacks = [*ATTACKS_OF_BOTH, dict(ATTACKS_OF_BOTH[0], eps=[2, 4])]
    attacks += [dict(ATTACKS_OF_BOTH[1], eps=4)]
    rows = run(runner(attacks=attacks, evaluations=3))
    small, large = rows['worst_case_eps4'], rows['worst_case_eps8']
    names = {'clean', *rows} - {'worst_case_eps4', 'worst_case_eps8'}
    for row in (small, large):
        several = row['evaluations']
        assert sorted(sum(several['folds'], [])) == [0, 1, 2]
        assert len(several['chosen']) == len(several['folds']) == 3
        for pick in several['chosen']:
            assert len(pick) == 5 and set(pick) <= names
        assert row['chosen_by'] == 'metric' and 'chosen' not in row
        assert row['cost']['seconds'] == 0 and row['flags'] == []
        assert len(row['interval']) == 2 and len(row['image_scores']) == 5
        assert row['metrics'][MAP] == pytest.approx(np.mean(several['values']))
    assert large['metrics'][MAP] <= small['metrics'][MAP]
    for key in names:
        assert large['metrics'][MAP] <= rows[key]['metrics'][MAP]


def test_restarts_of_a_model_that_draws_are_chosen_on_other_evaluations(runner):
    attacks = [dict(ATTACKS_OF_BOTH[0], restarts=3)]
    rows = run(runner(attacks=attacks, evaluations=4))
    row, worst = rows['shift_total_eps8'], rows['worst_case_eps8']
    least = row['metrics_worst_restart'][MAP]
    assert worst['metrics'][MAP] <= min(least, row['metrics'][MAP])
    # Chosen by the same evaluations, three equal restarts would leave far less.
    single = run(runner(attacks=attacks))['shift_total_eps8']  # from what is there
    assert single['metrics_worst_restart'][MAP] < single['metrics'][MAP] - 0.1
    assert least > row['metrics'][MAP] - 0.1


def test_a_model_that_draws_nothing_is_noticed(runner, tmp_path):
    quiet = dict(draws=0.0)
    single = run(runner('1', model=quiet))
    tested = runner('3', model=quiet, evaluations=3)
    several = run(tested)
    for key, row in several.items():
        values = row['evaluations']['values']
        assert len(set(values)) == 1 and row['evaluations']['differing'] == 0
        for name in ('metrics', 'image_scores', 'per_class', 'broke', 'interval'):
            assert row[name] == single[key][name], (key, name)
    results = tested.test_loop.results
    (sentence,) = describe_evaluations(results)
    assert 'answers the same in all 3 evaluations' in sentence
    page = build_page(read_reports([tested.test_loop.out]))
    assert any(sentence in note for note in page.notes)
    assert ' in 3)' not in results_table(results).to_markdown()


def test_tables_show_mean_lowest_and_highest(thrice):
    row = thrice.rows['clean']
    low, high = row['evaluations']['lowest'], row['evaluations']['highest']
    shown = f'({low:.3f} to {high:.3f} in 3)'
    assert shown in results_table(thrice.results).to_markdown()
    models = read_reports([thrice.out])
    page = build_page(models)
    assert shown in render(page)
    (note,) = (note for note in page.notes if 'mean of 3 evaluations' in note)
    assert 'seeds 0, 1, 2' in note
    header, clean, *_ = to_csv(models).splitlines()
    cells = dict(zip(header.split(','), clean.split(',')))
    assert cells['evaluations'] == '3' and float(cells['lowest']) == low


def test_two_models_of_other_numbers_of_evaluations_are_compared(once, thrice):
    page = build_page(read_reports([once.out, thrice.out]))
    (cells,) = page.differences.rows
    assert cells[0] == 'thrice less once'
    clean = [tested.rows['clean']['metrics'][MAP] for tested in (once, thrice)]
    assert cells[1].startswith(f'{clean[1] - clean[0]:+.3f} [')
    assert any('differ in evaluations: 1, 3' in note for note in page.notes)
    assert ' in 3) ' in comparison_table(page).to_markdown()


def test_one_evaluation_of_a_model_that_draws_is_said(once):
    worst = once.rows['worst_case_eps8']
    assert [flag['code'] for flag in worst['flags']] == ['lucky_draws']
    assert 'set evaluations=8' in worst['reasons'][0]
    (sentence,) = describe_evaluations(once.results)
    assert 'each value is of one draw' in sentence and '--evaluations 8' in sentence


def test_metrics_after_rounding_are_the_mean_with_the_same_seeds(runner):
    attacks = [dict(ATTACKS_OF_BOTH[0], eps=0.4)]  # rounding gives the clean image
    tested = runner(attacks=attacks, evaluations=3)
    rows = run(tested)
    row = rows['shift_total_eps0.4']
    name = 'shift_total_eps0.4'
    expected = [by_hand(tested, seed, name, 0) for seed in (0, 1, 2)]
    assert row['metrics_after_rounding'][MAP] == pytest.approx(np.mean(expected))
    assert rows['clean']['metrics_after_rounding'] == rows['clean']['metrics']


def test_a_worst_case_of_several_choices_is_not_saved(runner, tmp_path):
    folder = tmp_path / 'saved'
    tested = runner(evaluations=2, save_adversarial=str(folder))
    run(tested)
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {
        'clean',
        'shift_total_eps8',
        'darken_total_eps8',
    }


def test_seeds_that_fix_nothing_are_flagged(runner, thrice):
    flags = run(runner('own', model=dict(own=True), evaluations=2))['clean']['flags']
    assert [flag['code'] for flag in flags] == ['noise_without_seed']
    assert 'two evaluations with equal seeds differ on 2 of 2' in flags[0]['text']
    assert thrice.rows['clean']['flags'] == []


def test_all_generators_are_seeded_and_put_back():
    def draw():
        return torch.rand(1).item(), np.random.rand(), random.random()

    seed_all(5)
    expected = draw()
    seed_all(5)
    with seeded(7):
        first = draw()
    assert draw() == expected
    with seeded(7):
        assert draw() == first != expected


@pytest.mark.parametrize(
    'settings, words',
    [
        (dict(evaluations=0), 'evaluations=0 must be a number of at least 1'),
        (dict(evaluations=True), 'evaluations=True must be'),
        (dict(evaluations=2, skip_fooled=True), 'leave it out with evaluations=2'),
    ],
)
def test_settings_that_make_no_sense_are_refused(runner, settings, words):
    with pytest.raises(ValueError, match=words):
        runner(**settings).test()
