"""What is taken from matched detections is what the evaluator gives."""

import itertools
from multiprocessing.dummy import Pool as ThreadPool

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric, VOCMetric
from worlds import detect, make_instances, make_samples, make_scorer, record_of

from mmdiff.evaluation.entry import main_metric, main_metric_name
from mmdiff.evaluation.greedy import lowest_map
from mmdiff.evaluation.image_tables import ApTable, Matches, value_of
from mmdiff.evaluation.scoring.matching import matcher_of

METRICS = {
    'area': lambda: VOCMetric(metric='mAP', eval_mode='area'),
    '11points': lambda: VOCMetric(metric='mAP', iou_thrs=[0.5, 0.75]),
    'coco': lambda: CocoMetric(metric='bbox'),
    'coco, 50': lambda: CocoMetric(metric='bbox', metric_items=['mAP_50']),
    'coco, 75': lambda: CocoMetric(metric='bbox', metric_items=['mAP_75', 'mAP_s']),
    'coco at one IoU': lambda: CocoMetric(metric='bbox', iou_thrs=np.array([0.6])),
}


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch):
    monkeypatch.setattr('mmdet.evaluation.functional.mean_ap.Pool', ThreadPool)


def value(rule, matches):
    return value_of(ApTable.of(rule, matches), rule.num_images)


@pytest.mark.parametrize('count', [1, 2, 30])
@pytest.mark.parametrize('levels', [None, 10])
@pytest.mark.parametrize('name', METRICS)
def test_the_value_is_the_evaluators(name, levels, count):
    samples = make_samples(count, count + 3)
    scorer = make_scorer(METRICS[name](), samples)
    for seed in range(2):
        record = detect(samples, seed, levels=levels)
        metrics = scorer.measure(record)
        matcher = scorer.matcher(main_metric_name(metrics))
        fast = value(matcher.rule, matcher.match(record.predictions))
        assert fast == pytest.approx(main_metric(metrics), abs=matcher.tolerance)
        assert matcher.tolerance < 1e-3 and (count < 30 or fast > 0.01)


@pytest.mark.parametrize('name', METRICS)
def test_a_choice_of_runs_is_measured_as_the_evaluator_measures_it(name):
    samples = make_samples(12, 0)
    scorer = make_scorer(METRICS[name](), samples)
    runs = [detect(samples, seed) for seed in range(3)]
    metric = main_metric_name(scorer.measure(runs[0]))
    matcher = scorer.matcher(metric)
    matches = [matcher.match(run.predictions) for run in runs]
    pick = np.random.default_rng(0).integers(0, 3, 12)
    fast = value(matcher.rule, Matches.choose(matches, pick))
    chosen = record_of([runs[k].predictions[i] for i, k in enumerate(pick)])
    assert fast == pytest.approx(scorer.measure(chosen)[metric], abs=matcher.tolerance)


def test_nothing_detected_is_worth_nothing():
    samples = make_samples(4, 0)
    record = detect(samples, 0)
    for prediction in record.predictions:
        for name in prediction:
            prediction[name] = prediction[name][:0]
    for name, metric in (('pascal_voc/mAP', 'area'), ('coco/bbox_mAP', 'coco')):
        matcher = make_scorer(METRICS[metric](), samples).matcher(name)
        matches = matcher.match(record.predictions)
        assert len(matches.images) == 0 and value(matcher.rule, matches) == 0


def test_other_metrics_have_no_matcher():
    class Other(VOCMetric):
        pass

    samples = make_samples(2, 0)
    recall = VOCMetric(metric='recall')
    for metric in (Other(metric='mAP'), recall):
        assert matcher_of([metric], 'pascal_voc/AR@100', samples) is None
    assert matcher_of([Other(metric='mAP')], 'pascal_voc/mAP', samples) is None


def test_the_metric_is_left_as_it_is():
    samples = make_samples(3, 0)
    metric = CocoMetric(metric='bbox')
    scorer = make_scorer(metric, samples)
    scorer.matcher('coco/bbox_mAP').match(detect(samples, 0).predictions)
    assert metric.results == [] and metric._coco_api is None
    assert all('pred_instances' not in sample for sample in samples)


@pytest.mark.parametrize('name', METRICS)
@pytest.mark.parametrize('seed', range(4))
def test_greedy_is_near_the_lowest_of_all_choices(name, seed):
    samples = make_samples(4, seed + 10)
    metric = METRICS[name]()
    metric.dataset_meta = {'classes': 'abcde'}
    key = 'coco/bbox_mAP' if 'coco' in name else 'pascal_voc/mAP'
    matcher = matcher_of([metric], key, samples)
    runs = [matcher.match(detect(samples, s).predictions) for s in range(3)]

    def of(pick):
        return value(matcher.rule, Matches.choose(runs, np.array(pick)))

    starts = [np.full(4, run) for run in range(3)]
    chosen = of(lowest_map(matcher.rule, runs, starts))
    lowest = min(map(of, itertools.product(range(3), repeat=4)))
    assert lowest <= chosen <= min(map(of, starts)) + 1e-12
    assert chosen <= lowest + 0.02


def test_greedy_takes_false_alarms_of_classes_that_an_image_does_not_show():
    """At score 0 nothing more is lost there; a false dog still counts over the set."""
    samples = make_samples(2, 0)
    box = [10.0, 10, 40, 40]
    for sample, label in zip(samples, (0, 1)):
        sample.gt_instances = make_instances([box], [label])
        sample.ignored_instances = make_instances([], [])

    def found(labels, scores):
        boxes = torch.tensor([box] * len(labels)).reshape(-1, 4)
        scores = torch.tensor(scores)
        return {'bboxes': boxes, 'scores': scores, 'labels': torch.tensor(labels)}

    none = {'bboxes': torch.zeros(0, 4), 'scores': torch.zeros(0)}
    none['labels'] = torch.zeros(0, dtype=torch.long)
    sure = found([1], [0.5])
    runs = [
        record_of([found([0], [0.9]), sure]),  # clean
        record_of([none, sure]),  # the cat is lost
        record_of([found([1], [0.8]), sure]),  # lost, and a false dog above the dog
    ]
    metric = VOCMetric(metric='mAP', eval_mode='area')
    matcher = make_scorer(metric, samples).matcher('pascal_voc/mAP')
    matches = [matcher.match(run.predictions) for run in runs]
    pick = lowest_map(matcher.rule, matches, [np.array([1, 0])])
    assert pick[0] == 2
    assert value(matcher.rule, Matches.choose(matches, pick)) == pytest.approx(0.25)
