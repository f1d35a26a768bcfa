"""Intervals, and the differences of two models on the same images."""

from multiprocessing.dummy import Pool as ThreadPool
from types import SimpleNamespace

import numpy as np
import pytest
from builders import make_entry, make_record, make_results
from mmdet.evaluation import CocoMetric, VOCMetric
from worlds import detect, make_samples, make_scorer, record_of, scored

from mmdiff.evaluation.entry import Entry
from mmdiff.evaluation.image_tables import ApTable, MeanTable, value_of
from mmdiff.evaluation.report import build_page, read_reports
from mmdiff.evaluation.results import Intervals
from mmdiff.evaluation.row_tables import RowTables
from mmdiff.evaluation.set_metric import SetMetric
from mmdiff.evaluation.tables import results_table
from mmdiff.evaluation.uncertainty import Bootstrap, share_kept


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch):
    monkeypatch.setattr('mmdet.evaluation.functional.mean_ap.Pool', ThreadPool)


def test_an_interval_covers_the_truth_as_often_as_it_says():
    generator, how, covered = np.random.default_rng(0), Bootstrap(resamples=300), 0
    for _ in range(200):
        table = MeanTable((generator.random(100) < 0.7).astype(float))
        low, high = how.interval(how.values(table, 100), table.values.mean())
        covered += low <= 0.7 <= high
    assert 0.9 <= covered / 200 <= 0.99


def test_intervals_are_the_same_every_time_and_others_with_another_seed():
    table = MeanTable(np.linspace(0, 1, 40))
    one, same = (Bootstrap().values(table, 40) for _ in range(2))
    assert np.array_equal(one, same) and len(one) == 1000
    assert not np.array_equal(one, Bootstrap(seed=1).values(table, 40))


def test_a_share_of_nothing_is_left_out():
    share = share_kept(np.array([0.1, 0.0, 0.2]), np.array([0.2, 0.0, 0.4]))
    assert share[[0, 2]].tolist() == [0.5, 0.5] and np.isnan(share[1])
    assert Bootstrap().paired_interval(share) == (0.5, 0.5)
    assert Bootstrap().paired_interval(np.array([np.nan])) is None
    assert Bootstrap().interval(share, np.nan) is None


def test_an_interval_goes_against_the_deviation_of_the_draws_and_stays_in_range():
    draws, how = np.linspace(0.5, 0.7, 201), Bootstrap(level=1.0)
    assert how.interval(draws, 0.6) == pytest.approx((0.5, 0.7), abs=0.01)
    low, high = how.interval(draws, 0.5)
    assert 0.29 < low < 0.31 and high == pytest.approx(0.5)
    low, high = how.interval(np.array([0.0, 0.04]), 0.01)
    assert low == 0 and high == pytest.approx(0.0396, abs=1e-3)


def test_an_interval_of_map_holds_that_of_many_images_more_often_than_percentiles():
    samples = make_samples(400, 3)
    scorer = make_scorer(VOCMetric(metric='mAP', eval_mode='area'), samples)
    matcher = scorer.matcher('pascal_voc/mAP')
    table = ApTable.of(matcher.rule, matcher.match(detect(samples, 0, 4.0).predictions))
    truth = value_of(table, 400)
    generator, held = np.random.default_rng(0), np.zeros(2)
    for _ in range(100):
        weights = generator.multinomial(40, np.full(400, 1 / 400)).astype(float)
        draws = generator.multinomial(40, weights / 40, 200).astype(float)
        values = table.resampled(draws)
        estimate = float(table.resampled(weights[None])[0])
        for k, (low, high) in enumerate(
            (np.percentile(values, [2.5, 97.5]), Bootstrap().interval(values, estimate))
        ):
            held[k] += low <= truth <= high
    assert held[1] > held[0] + 5, held


@pytest.mark.parametrize('mode', ['area', '11points'])
def test_a_draw_is_measured_as_the_evaluator_measures_the_images_drawn(mode):
    samples = make_samples(12, 5)
    record = detect(samples, 0)
    metric = VOCMetric(metric='mAP', eval_mode=mode)
    matcher = make_scorer(metric, samples).matcher('pascal_voc/mAP')
    table = ApTable.of(matcher.rule, matcher.match(record.predictions))
    weights = Bootstrap(resamples=4).weights(12)
    assert (weights.sum(1) == 12).all() and weights.max() > 1
    for draw, value in zip(weights, table.resampled(weights)):
        taken = np.repeat(np.arange(12), draw.astype(int))
        scorer = make_scorer(
            VOCMetric(metric='mAP', eval_mode=mode), [samples[i] for i in taken]
        )
        metrics = scorer.measure(record_of([record.predictions[i] for i in taken]))
        assert value == pytest.approx(metrics['pascal_voc/mAP'], abs=1e-6)


def clean_row(scorer, record):
    entry = Entry.clean()
    entry.metrics = scorer.measure(record)
    return entry


def test_rows_get_intervals_of_value_and_share():
    samples = make_samples(20, 1)
    scorer = make_scorer(VOCMetric(metric='mAP', eval_mode='area'), samples)
    clean, attacked = detect(samples, 0, 1.0), detect(samples, 1, 6.0)
    row = clean_row(scorer, clean)
    metric = SetMetric(scorer, row, clean)
    assert metric.problem == '' and metric.chooses
    entry = make_entry('pgd')
    entry.metrics = scorer.measure(attacked)
    for one, record in ((row, clean), (entry, attacked)):
        metric.fill(one, record)
        low, high = one.interval
        assert low < high and value_of(metric.tables[one.key], 20) == pytest.approx(
            one.value, abs=1e-6
        )
    assert row.kept_interval is None and entry.kept_interval[0] < 1
    assert list(metric.tables) == ['clean', 'pgd_eps8']


def test_where_the_evaluator_counts_otherwise_nothing_of_it_is_used():
    samples = make_samples(6, 1)
    scorer = make_scorer(VOCMetric(metric='mAP', eval_mode='area'), samples)
    record = detect(samples, 0)
    row = clean_row(scorer, record)
    row.metrics['pascal_voc/mAP'] += 0.001
    metric = SetMetric(scorer, row, record)
    metric.fill(row, record)
    assert not metric.chooses and row.interval is None and not metric.tables
    assert 'by the evaluator and' in metric.problem
    assert 'worst cases are chosen image by image' in metric.problem

    class Own(VOCMetric):
        pass

    scorer = make_scorer(Own(metric='mAP', eval_mode='area'), samples)
    metric = SetMetric(scorer, clean_row(scorer, record), record)
    assert 'counted by the evaluator alone' in metric.problem and not metric.chooses


def test_a_row_that_the_evaluator_counts_otherwise_has_no_interval_of_its_own():
    samples = make_samples(6, 1)
    scorer = make_scorer(VOCMetric(metric='mAP', eval_mode='area'), samples)
    record = detect(samples, 0)
    metric = SetMetric(scorer, clean_row(scorer, record), record)
    entry = make_entry('pgd')
    entry.metrics = scorer.measure(record)
    entry.metrics['pascal_voc/mAP'] += 0.01
    metric.fill(clean_row(scorer, record), record)
    metric.fill(entry, record)
    assert entry.interval is None and list(metric.tables) == ['clean']


def classified(values):
    """Scorer, clean row and record of a classifier that is right on some images."""
    values = np.array(values, float)
    scorer = SimpleNamespace(
        matcher=lambda metric: None,
        can_be_lost=lambda index: True,
        mean_table=lambda metric, record: MeanTable(record.score),
    )
    row = make_entry('clean', metrics={'accuracy/top1': 100 * values.mean()})
    return scorer, row, scored_as(values)


def scored_as(values):
    record = make_record(values)
    record.score = np.array(values, float)
    return record


def test_where_all_images_are_lost_others_might_not_be():
    """Of 100 images none: at 3.6 % on others, it would be so once in 40 times."""
    scorer, row, clean = classified([1] * 50 + [0] * 50)
    metric = SetMetric(scorer, row, clean)
    metric.fill(row, clean)
    lost, kept = (
        make_entry('pgd', eps=eps, metrics={'accuracy/top1': 100 * value})
        for eps, value in ((8, 0.0), (1, 0.5))
    )
    metric.fill(lost, scored_as([0] * 100))
    metric.fill(kept, clean)
    assert lost.interval == (0, pytest.approx(0.0362, abs=1e-4))
    assert lost.kept_interval == (0, pytest.approx(0.0711, abs=1e-4))  # of 50
    assert kept.kept_interval == (pytest.approx(0.9289, abs=1e-4), 1)
    assert 0.35 < kept.interval[0] < 0.45


def test_where_every_object_is_lost_that_of_another_image_might_not_be():
    samples = make_samples(30, 0)
    scorer = make_scorer(CocoMetric(metric='bbox'), samples)
    clean = detect(samples, 0)
    row = clean_row(scorer, clean)
    metric = SetMetric(scorer, row, clean)
    metric.fill(row, clean)
    nothing = record_of(
        [{k: v[:0] for k, v in one.items()} for one in clean.predictions]
    )
    lost = make_entry(value=0.0)
    lost.metrics = scorer.measure(nothing)
    metric.fill(lost, nothing)
    count = sum(len(sample.gt_instances) > 0 for sample in samples)
    room = 1 - 0.025 ** (1 / count)
    assert lost.interval == (0, pytest.approx(room))
    assert lost.kept_interval[0] == 0 and room < lost.kept_interval[1] <= 1


def test_ends_of_exact_intervals_are_where_a_tail_begins():
    how = Bootstrap(level=0.9)
    low, high = how.interval_of_alike(0, 7)
    assert low == 0 and (1 - high) ** 7 == pytest.approx(0.05)
    assert how.interval_of_alike(1, 7) == (pytest.approx(1 - high), 1)


def report(folder, name, shift, count=60, ids=None, **settings):
    """Report of a classifier, with its tables; a larger shift is a worse one."""
    generator = np.random.default_rng(0)
    luck = generator.random(count)
    rows = {
        'clean': MeanTable((luck < 0.9 - shift).astype(float)),
        'pgd_eps8': MeanTable((luck < 0.5 - shift).astype(float)),
    }
    entries = [make_entry('clean'), make_entry('pgd')]
    for entry, table in zip(entries, rows.values()):
        entry.metrics = {'accuracy/top1': 100 * table.values.mean()}
        values = Bootstrap().values(table, count)
        entry.interval, entry.num_images = (
            Bootstrap().interval(values, table.values.mean()),
            count,
        )
    entries[1].kept_interval = (0.4, 0.6)
    entries[1].settings.update(settings)
    ids = [f'{i}.png' for i in range(count)] if ids is None else ids
    folder.mkdir()
    results = make_results(name=name, entries=entries, image_ids=ids)
    results.intervals = Intervals(1000, 0.95, 0, 'robustness.tables.npz')
    results.write(folder / 'robustness.json')
    RowTables(ids, 'accuracy/top1', rows).save(folder / 'robustness.tables.npz')
    return folder / 'robustness.json'


def test_two_models_on_the_same_images_are_compared_on_the_same_draws(tmp_path):
    paths = report(tmp_path / 'a', 'a', 0.0), report(tmp_path / 'b', 'b', 0.2)
    page = build_page(read_reports(paths))
    (cells,) = page.differences.rows
    assert page.differences.columns == [
        'second less first',
        'clean',
        'Linf 8',
        'kept, Linf 8',
    ]
    assert cells[0] == 'b less a'
    models = [model.clean.value for model in page.models]
    assert cells[1].startswith(f'{models[1] - models[0]:+.3f} [')
    low, high = map(float, cells[1].split('[')[1].rstrip(']').split(', '))
    # The same images are hard for both: the interval is narrower than of two sets.
    alone = sum(np.ptp(model.clean.interval) ** 2 for model in page.models) ** 0.5
    assert low <= models[1] - models[0] <= high < 0
    assert high - low < 0.9 * alone
    assert not any('image by image' in note for note in page.notes)


def test_a_difference_of_models_that_met_other_attacks_is_said_to_be_one(tmp_path):
    one = report(tmp_path / 'a', 'a', 0.0)
    for other, settings in (('b', {}), ('c', {'steps': 50, 'restarts': 3})):
        pair = one, report(tmp_path / other, other, 0.2, **settings)
        notes = [n for n in build_page(read_reports(pair)).notes if 'less a' in n]
        assert len(notes) == bool(settings)
    (note,) = notes
    assert note.startswith('c less a, Linf 8: a difference of attacks as well as of')
    assert '(a of pgd with 10 steps and c of pgd with 50 steps, 3 times)' in note


def test_models_on_other_images_are_not_paired(tmp_path):
    ids = [f'other-{i}.png' for i in range(60)]
    paths = report(tmp_path / 'a', 'a', 0.0), report(tmp_path / 'b', 'b', 0.2, 60, ids)
    page = build_page(read_reports(paths))
    assert page.differences is None
    (note,) = [note for note in page.notes if 'image by image' in note]
    assert 'a and b are not compared' in note and 'different images (60 and 60)' in note


@pytest.mark.parametrize('harm', ['missing', 'damaged', 'of another run'])
def test_tables_that_are_not_there_are_said_to_be_so(tmp_path, harm):
    paths = report(tmp_path / 'a', 'a', 0.0), report(tmp_path / 'b', 'b', 0.2)
    file = tmp_path / 'b' / 'robustness.tables.npz'
    if harm == 'missing':
        file.unlink()
    elif harm == 'damaged':
        file.write_bytes(file.read_bytes()[:200])
    else:
        tables = RowTables.load(file)
        RowTables(tables.image_ids[::-1], tables.metric, tables.rows).save(file)
    page = build_page(read_reports(paths))
    (note,) = [note for note in page.notes if 'image by image' in note]
    assert page.differences is None
    assert {'missing': 'There is no file'}.get(harm, harm) in note


def test_tables_come_back_from_the_file_as_they_were(tmp_path):
    samples = make_samples(15, 2)
    matcher = make_scorer(VOCMetric(metric='mAP'), samples).matcher('pascal_voc/mAP')
    rows = {}
    for seed in range(3):
        matches = matcher.match(detect(samples, seed).predictions)
        rows[f'run {seed}'] = ApTable.of(matcher.rule, matches)
    RowTables(list('abcdefghijklmno'), 'pascal_voc/mAP', rows).save(tmp_path / 'x.npz')
    back = RowTables.load(tmp_path / 'x.npz')
    assert back.metric == 'pascal_voc/mAP' and list(back.rows) == list(rows)
    weights = Bootstrap(resamples=20).weights(15)
    for key, table in rows.items():
        expected = table.resampled(weights)
        assert np.array_equal(back.rows[key].resampled(weights), expected, True)


def test_tables_show_intervals_and_call_an_upper_bound_one():
    results = make_results()
    for entry in results.entries:
        entry.interval, entry.kept_interval = (0.1, 0.9), (0.2, 1.1)
    worst = next(e for e in results.entries if e.role == 'worst_case')
    worst.upper_bound = True
    table = results_table(results)
    assert 'no intervals' not in table.title
    by_label = {row[0]: row for row in table.rows}
    assert by_label['clean'][3] == '0.800 [0.100, 0.900]'
    cells = by_label['worst_case']
    assert cells[3:5] == ['0.350 [0.100, 0.900] (upper bound)', '44 % [20, 110]']


def test_scores_of_images_are_not_changed_by_matching():
    samples = make_samples(5, 3)
    scorer = make_scorer(VOCMetric(metric='mAP', eval_mode='area'), samples)
    record = scored(scorer, detect(samples, 0))
    before = record.score.copy()
    SetMetric(scorer, clean_row(scorer, record), record).matches(record)
    assert np.array_equal(before, scored(scorer, record).score)
