"""What became of the objects: each kind, planted one by one."""

import pytest
import torch
from builders import make_results
from mmdet.evaluation import CocoMetric
from worlds import detect, make_instances, make_samples, make_scorer, record_of

from mmdiff.evaluation.account import Broke
from mmdiff.evaluation.entry import Entry
from mmdiff.evaluation.scoring.detection import _class_ap, _truth
from mmdiff.evaluation.tables import broke_table

THING = [0.0, 0, 40, 40]
SHIFTED = [20.0, 0, 60, 40]  # IoU 1/3
ELSEWHERE = [70.0, 70, 90, 90]
CROWD = [60.0, 60, 100, 100]


def broke(detections, objects=((THING, 0),), crowds=()):
    (sample,) = make_samples(1, 0)
    sample.gt_instances = make_instances(
        [b for b, _ in objects], [k for _, k in objects]
    )
    sample.ignored_instances = make_instances(list(crowds), [0] * len(crowds))
    scorer = make_scorer(CocoMetric(metric='bbox'), [sample])
    boxes = torch.tensor([box for box, *_ in detections]).reshape(-1, 4)
    prediction = {
        'bboxes': boxes,
        'labels': torch.tensor([label for _, label, _ in detections]).long(),
        'scores': torch.tensor([score for *_, score in detections]).float(),
    }
    return scorer.broke(record_of([prediction]))


@pytest.mark.parametrize(
    'detections, kind, false',
    [
        ([(THING, 0, 0.9)], 'right', 0),
        ([(THING, 1, 0.9), (THING, 0, 0.4)], 'right', 0),
        ([(THING, 1, 0.9)], 'wrong_class', 0),
        ([(THING, 1, 0.9), (SHIFTED, 0, 0.9)], 'wrong_class', 0),
        ([(SHIFTED, 0, 0.9)], 'moved', 0),
        ([(SHIFTED, 1, 0.9)], 'lost', 0),
        ([(ELSEWHERE, 0, 0.9)], 'lost', 1),
        ([(THING, 0, 0.29), (ELSEWHERE, 0, 0.29)], 'lost', 0),
        ([], 'lost', 0),
    ],
)
def test_each_kind_is_told_from_the_others(detections, kind, false):
    result = broke(detections)
    shares = {k: getattr(result, k) for k in ('right', 'wrong_class', 'moved', 'lost')}
    assert shares == {**dict.fromkeys(shares, 0.0), kind: 1.0}
    assert result.false_per_image == false and result.objects == 1
    assert result.score_threshold == 0.3
    assert result.mean_iou == (1.0 if kind == 'right' else None)


def test_of_any_class_it_is_found_and_in_a_crowd_it_is_no_false_one():
    result = broke([(THING, 1, 0.9), (ELSEWHERE, 0, 0.8)], crowds=[CROWD])
    assert result.any_class_ap == pytest.approx(1) and result.false_per_image == 0
    none = broke([(ELSEWHERE, 0, 0.8)], objects=())
    assert none.objects == 0 and none.any_class_ap is None and none.right == 0


def test_it_comes_back_from_json_and_has_a_table():
    results = make_results()
    assert broke_table(results) is None
    results.entries[0].broke = Broke(0.3, 10, 0.5, 0.25, 0.25, 0.0, 1.5, None, 0.75)
    raw = results.entries[0].to_json()
    assert Entry.from_json(raw).broke == results.entries[0].broke
    table = broke_table(results)
    cells = ['50 %', '25 %', '25 %', '0 %', '1.50', '-', '0.750']
    assert table.rows == [['clean', '', *cells]]
    with pytest.raises(KeyError):
        Entry.from_json({**raw, 'broke': {'objects': 3}})


def test_each_number_lies_in_its_interval():
    samples = make_samples(60, 0)
    scorer = make_scorer(CocoMetric(metric='bbox'), samples)
    record = detect(samples, 1)
    result = scorer.broke(record)
    names = 'right', 'wrong_class', 'moved', 'lost', 'false_per_image', 'mean_iou'
    assert set(result.intervals) == {*names, 'any_class_ap'}
    for name, (low, high) in result.intervals.items():
        assert low < getattr(result, name) < high, name
    low, high = result.intervals['lost']
    assert 0.05 < high - low < 0.5
    # As counted detection by detection.
    truths = [_truth(sample, 'original') for sample in samples]
    one = [{k: v * 0 if 'label' in k else v for k, v in t.items()} for t in truths]
    merged = [{**p, 'labels': p['labels'] * 0} for p in record.predictions]
    expected = _class_ap(merged, one, 0, 'area', False)
    assert result.any_class_ap == pytest.approx(expected, abs=1e-6)


def test_what_no_image_shows_has_room_above():
    result = broke([])
    assert result.intervals['right'][0] == 0 and result.intervals['right'][1] > 0.9
    assert result.intervals['lost'][1] == 1 and result.intervals['lost'][0] < 0.1
    assert result.intervals['false_per_image'] == (0, pytest.approx(3.689, abs=1e-3))
    results = make_results()
    results.entries[0].broke = result
    ((_, _, right, *_, false, iou, _),) = broke_table(results).rows
    assert (right, false, iou) == ('0 % [0, 98]', '0.00 [0.00, 3.69]', '-')
    again = Entry.from_json(results.entries[0].to_json()).broke
    assert again == result
