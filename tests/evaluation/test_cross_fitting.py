"""Choices that are measured on evaluations that they were not made on."""

from dataclasses import replace

import numpy as np
import pytest
from builders import make_entry, make_record, make_results
from mmdet.evaluation import CocoMetric, VOCMetric  # noqa: F401 (registered)
from worlds import detect, make_samples, make_scorer, scored

from mmdiff.evaluation.cross_fitting import (
    cross_fit,
    lowest_mean,
    side_by_side,
    split,
)
from mmdiff.evaluation.entry import Entry
from mmdiff.evaluation.evaluations import Evaluations, mean, mean_of_known
from mmdiff.evaluation.image_tables import (
    ApTable,
    EvaluationsTable,
    MeanTable,
    value_of,
)
from mmdiff.evaluation.record import RunRecord
from mmdiff.evaluation.results import Results
from mmdiff.evaluation.row_tables import RowTables
from mmdiff.evaluation.set_metric import SetMetric
from mmdiff.evaluation.uncertainty import Bootstrap


def evaluated(scores):
    """A record of evaluations of these scores, (evaluations, images)."""
    first, *others = (make_record(one) for one in scores)
    first.others = others
    return first


def coins(generator, chance, count=4):
    """Answers that are right by chance, of each image its own."""
    return evaluated(1.0 * (generator.random((count, len(chance))) < chance))


@pytest.mark.parametrize('count', [2, 3, 4, 5, 9])
def test_every_evaluation_is_measured_once_by_a_choice_that_did_not_see_it(count):
    runs = [evaluated(np.full((count, 2), level)) for level in (0.5, 0.2)]
    seen = []

    def choose(some):
        seen.append([{id(one) for one in run} for run in some])
        return np.array([1, 0])

    fitted = cross_fit(runs, choose)
    assert sorted(sum(fitted.folds, [])) == list(range(count))
    assert fitted.folds == split(count) and len(fitted.picks) == len(seen) <= 4
    for fold, ids in zip(fitted.folds, seen):
        for run, known in zip(runs, ids):
            hidden = {id(run.evaluations[k]) for k in fold}
            assert known == {id(one) for one in run.evaluations} - hidden
    assert len(fitted.record.evaluations) == count
    assert all(one.score.tolist() == [0.2, 0.5] for one in fitted.record.evaluations)
    assert all(not one.others for one in fitted.record.others)


def test_attacks_of_equal_harm_do_no_more_together():
    """The lowest of ten draws is far below what any of them does."""
    generator = np.random.default_rng(0)
    chance = np.full(2000, 0.5)
    runs = [coins(generator, chance) for _ in range(10)]
    naive = np.min([run.mean_score for run in runs], 0).mean()
    fitted = cross_fit(runs, lowest_mean).record.mean_score.mean()
    assert naive < 0.2 and abs(fitted - 0.5) < 0.02


def test_what_attacks_do_together_is_found():
    """One attack harms the first half of the images, another one the second."""
    generator = np.random.default_rng(0)
    first = np.repeat([0.1, 0.9], 500)
    runs = [coins(generator, chance) for chance in (first, first[::-1])]
    fitted = cross_fit(runs, lowest_mean).record.mean_score.mean()
    assert 0.1 < fitted < 0.13
    assert min(run.mean_score.mean() for run in runs) > 0.45


METRICS = {
    'voc': dict(type='VOCMetric', metric='mAP', eval_mode='area'),
    '11points': dict(type='VOCMetric', metric='mAP', eval_mode='11points'),
}


@pytest.fixture(params=METRICS)
def measured(request, monkeypatch):
    """A set metric, and evaluations of three runs on eight images."""
    from multiprocessing.dummy import Pool

    monkeypatch.setattr('mmdet.evaluation.functional.mean_ap.Pool', Pool)
    samples = make_samples(8, 0)
    scorer = make_scorer(METRICS[request.param], samples)
    runs = []
    for number in range(3):
        first, *others = (
            scored(scorer, detect(samples, 10 * number + k)) for k in range(3)
        )
        first.others = others
        runs.append(first)
    clean = Entry.clean()
    clean.metrics = scorer.measure(runs[0])
    return SetMetric(scorer, clean, RunRecord.join([_alone(runs[0])])), runs


def _alone(record):
    return make_record(record.score, record.loss, record.predictions)


def test_side_by_side_the_map_is_the_mean_of_the_evaluations(measured):
    metric, runs = measured
    assert metric.problem == ''
    rule = metric.matcher.rule
    matches = [[metric.matches(one) for one in run.evaluations] for run in runs]
    tiled, joined = side_by_side(rule, matches)
    for run, together in zip(matches, joined):
        single = [value_of(ApTable.of(rule, one), 8) for one in run]
        assert value_of(ApTable.of(tiled, together), 8) == pytest.approx(
            np.mean(single)
        )


def test_the_choice_by_the_mean_lowers_the_mean(measured):
    metric, runs = measured
    starts = [np.full(8, k) for k in range(3)]

    def value(pick):
        chosen = RunRecord.choose(runs, pick)
        return np.mean(
            [value_of(metric._table(_alone(one)), 8) for one in chosen.evaluations]
        )

    pick = metric.lowest_mean([run.evaluations for run in runs], starts)
    assert value(pick) < min(map(value, starts)) - 0.01
    for image in range(8):  # no change of one image lowers it
        for run in range(3):
            other = pick.copy()
            other[image] = run
            assert value(other) > value(pick) - 1e-9


def test_equal_evaluations_are_chosen_as_one_is(measured):
    metric, runs = measured
    starts = [np.full(8, k) for k in range(3)]
    single = metric.lowest([_alone(run) for run in runs], starts)
    thrice = metric.lowest_mean([[run] * 3 for run in runs], starts)
    assert single.tolist() == thrice.tolist()


def test_the_interval_is_that_of_the_mean_over_evaluations(measured, tmp_path):
    metric, runs = measured
    clean, entry = Entry.clean(), make_entry()
    entry.label = 'clean'  # the share kept is of the row before
    for one, run in zip((clean, entry), runs):
        one.metrics = {metric.metric: value_of(metric._table(run), 8)}
        metric.fill(one, run)
    how = Bootstrap()
    single = [metric._table(_alone(one)) for one in runs[1].evaluations]
    values = np.mean([how.values(table, 8) for table in single], 0)
    value = np.mean([value_of(table, 8) for table in single])
    assert entry.interval == pytest.approx(how.interval(values, value))
    ids = [str(k) for k in range(8)]
    table = EvaluationsTable(single)
    RowTables(ids, metric.metric, {'a': table, 'b': single[0]}).save(tmp_path / 't.npz')
    read = RowTables.load(tmp_path / 't.npz').rows
    np.testing.assert_allclose(how.values(read['a'], 8), values)
    assert value_of(read['b'], 8) == value_of(single[0], 8)


def test_a_table_of_means_of_evaluations_is_read_back(tmp_path):
    single = [MeanTable(np.array([1.0, 0.0])), MeanTable(np.array([1.0, 1.0]))]
    rows = {'clean': EvaluationsTable(single)}
    RowTables(['x', 'y'], 'accuracy/top1', rows).save(tmp_path / 't.npz')
    table = RowTables.load(tmp_path / 't.npz').rows['clean']
    assert value_of(table, 2) == 0.75
    assert table.resampled(np.array([[0, 2]])).tolist() == [0.5]


def test_evaluations_are_in_the_file_and_older_files_have_none():
    results = make_results()
    several = Evaluations([0, 1], [0.75, 0.85], 3, [[0], [1]], [['clean'], ['pgd']])
    results.entries[0].evaluations = several
    raw = results.to_json()
    assert raw['schema'] == 'mmdiff-robustness/3'
    assert raw['results'][0]['evaluations']['lowest'] == 0.75
    assert Results.from_json(raw) == results
    assert all('evaluations' not in row for row in raw['results'][1:])
    assert Results.from_json(raw).entries[1].evaluations is None
    raw['results'][0]['evaluations']['seeds'] = [0]
    with pytest.raises(ValueError, match='2 evaluations have 1 seeds'):
        Results.from_json(raw)


def test_the_mean_of_equal_values_is_that_value():
    assert mean([0.1, 0.1, 0.1]) == 0.1 != np.mean([0.1, 0.1, 0.1])
    assert mean([np.array([0.0, 1.0]), np.array([1.0, 1.0])]).tolist() == [0.5, 1.0]


def test_what_broke_is_the_mean_of_what_is_known(measured):
    metric, runs = measured
    scorer = metric.record_tables.scorer
    parts = [scorer.broke(replace(one, others=[])) for one in runs[0].evaluations]
    assert len(parts) > 1 and len({part.lost for part in parts}) > 1
    together = scorer.broke(runs[0])
    assert together.objects == parts[0].objects
    assert together.lost == pytest.approx(np.mean([part.lost for part in parts]))
    low, high = together.intervals['lost']
    assert low < together.lost < high
    assert set(together.intervals) == set(parts[0].intervals)


def test_evaluations_that_know_nothing_count_for_nothing():
    parts = [np.array([0.1, np.nan, np.nan]), np.array([0.1, 0.5, np.nan])]
    means = mean_of_known(parts)
    assert means[:2].tolist() == [0.1, 0.5] and np.isnan(means[2])
