"""Certified AP: the worst IoU, counts that no attack lowers, and the area of them."""

from itertools import product

import numpy as np
import pytest
import torch

from mmdiff.evaluation.certified_boxes import CountTable, count_boxes, iou, worst_iou
from mmdiff.evaluation.metrics import CertifiedAP

INF = float('inf')


def test_the_worst_iou_is_that_of_all_boxes_within_bounds():
    """A grid over the bounds finds none that is lower, and one that is as low."""
    generator = np.random.default_rng(0)
    for _ in range(60):
        corners = generator.uniform(0, 10, (2, 4))
        lower, upper = corners.min(0), corners.max(0)
        if generator.random() < 0.5:  # of a size that overlaps for sure
            lower, upper = np.array([0, 0, 6, 6]) + 0.3 * lower / 2, 0
            upper = lower + generator.uniform(0, 1.5, 4)
        start = generator.uniform(0, 5, 2)
        objects = np.array([[*start, *(start + generator.uniform(1, 5, 2))]])
        axes = [np.linspace(lower[i], upper[i], 9) for i in range(4)]
        grid = np.array(list(product(*axes)))
        lowest = iou(grid, objects).min()
        assert worst_iou(lower[None], upper[None], objects)[0, 0] == lowest


def test_boxes_without_bounds_can_be_anywhere():
    box = np.array([[0.0, 0, 10, 10], [0, 0, 10, 10], [INF] * 4])
    upper = box.copy()
    upper[1] = INF
    assert worst_iou(box, upper, box[:1]).ravel().tolist() == [1, 0, 0]
    assert worst_iou(box[:0], box[:0], box[:1]).shape == (0, 1)
    # Sides that can pass each other: the box can be empty.
    wide = np.array([[6.0, 0, 12, 10]])
    assert worst_iou(np.array([[0.0, 0, 5, 10]]), wide, box[:1])[0, 0] == 0


def test_each_box_and_each_object_is_matched_once():
    overlaps = np.array([[0.9, 0.6, 0.0], [0.8, 0.1, 0.0], [0.0, 0.0, 0.7]])
    every, same = np.ones(3, bool), np.ones((3, 3), bool)
    none = np.zeros(3, bool)

    def counts(possible=every, same=same, ignored=none):
        count = count_boxes(overlaps, possible, same, ignored, 0.5)
        return count.true, count.reported

    # Greedily the first box would take the first object, and leave none to the second.
    assert counts() == (3, 3)
    assert counts(possible=np.array([True, True, False])) == (2, 2)
    other = same.copy()
    other[2, 2] = False
    assert counts(same=other) == (2, 3)
    # A box on an object that is ignored does not count, nor does one that ...
    assert counts(ignored=np.array([False, False, True])) == (2, 2)
    # ... could be matched with another one as well, unless it is needed there.
    assert counts(ignored=np.array([False, True, False])) == (2, 2)


def test_certified_ap_is_at_most_that_under_any_attack():
    """What attacks leave has as many true boxes, or more, and no more boxes."""
    generator = np.random.default_rng(0)
    once = np.ones((1, 5))
    for _ in range(50):
        true = generator.integers(0, 4, (5, 3))
        reported = true + generator.integers(0, 4, (5, 3))
        objects = true.max(1) + generator.integers(1, 3, 5)
        worst = CountTable(true, reported, objects).resampled(once)
        more = generator.integers(true, np.minimum(objects[:, None], reported) + 1)
        fewer = generator.integers(more, reported + 1)
        assert worst <= CountTable(more, fewer, objects).resampled(once) + 1e-12
    twice = CountTable(true, reported, objects).resampled(2 * once)
    assert twice == pytest.approx(worst)


def sample(boxes, lower, upper, truth, thresholds=None, labels=None, ignored=()):
    count = len(boxes)
    smoothing = dict(
        sigma=0.1,
        num_copies=60,
        radii=(0.05, 0.1),
        alpha=0.001,
        thresholds=(0.5, 0.2),
        noise_seed=7,
    )
    slots = dict(
        thresholds=torch.tensor(thresholds or [0.2] * count, dtype=torch.float64),
        labels=torch.tensor(labels or [0] * count),
        bboxes=torch.tensor(boxes),
        scores=torch.ones(count),
        lower=torch.tensor(lower),
        upper=torch.tensor(upper),
        smoothing=smoothing,
    )

    def instances(boxes):
        labels = torch.zeros(len(boxes), dtype=torch.long)
        return dict(bboxes=torch.tensor(boxes).reshape(-1, 4), labels=labels)

    return dict(
        certified_instances=slots,
        gt_instances=instances(truth),
        ignored_instances=instances(list(ignored)),
    )


BOX, OTHER = [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]
NONE = [INF] * 4


def moved(by):
    return [value + by for value in BOX]


def images():
    """Two images of one object each.

    On the first one, a box is certain at the smaller radius and can vanish at the
    larger; another one appears there, if attacked. On the second one nothing is found.
    """
    found = sample(
        [BOX, NONE, BOX],
        [[moved(-1), moved(-2)], [NONE, OTHER], [moved(-1), moved(-2)]],
        [[moved(1), NONE], [NONE, NONE], [moved(1), NONE]],
        [BOX],
        [0.2, 0.2, 0.5],
    )
    empty = [torch.zeros(0, 4).tolist()] * 3
    nothing = sample(*empty, [OTHER])
    for name, shape in (('bboxes', (0, 4)), ('lower', (0, 2, 4)), ('upper', (0, 2, 4))):
        nothing['certified_instances'][name] = torch.zeros(shape)
    return found, nothing


def test_metrics_of_two_images():
    metric = CertifiedAP()
    metric.dataset_meta = dict(classes=('cat',))
    metric.process(None, images())
    metrics = metric.evaluate(2)
    assert metrics['certified/smoothed_ap'] == 0.5
    assert metrics['certified/ap_0.05'] == metrics['certified/recall_0.05'] == 0.5
    assert metrics['certified/ap_0.1'] == metrics['certified/recall_0.1'] == 0
    assert metrics['certified/abstained_0.05'] == 0
    assert metrics['certified/abstained_0.1'] == 1
    low, high = (metrics[f'certified/ap_0.05_{end}'] for end in ('low', 'high'))
    assert 0 <= low < 0.5 < high <= 1
    # None of two images: the interval is not empty.
    assert metrics['certified/ap_0.1_low'] == 0
    assert metrics['certified/ap_0.1_high'] == pytest.approx(1 - 0.025**0.5)
    repeated = ('sigma', 'num_copies', 'alpha', 'noise_seed')
    assert [metrics[f'certified/{k}'] for k in repeated] == [0.1, 60, 0.001, 7]


def test_boxes_that_may_appear_and_wide_bounds_cost_certified_ap():
    found, _ = images()
    slots = found['certified_instances']

    def evaluated(**changes):
        metric = CertifiedAP()
        metric.process(None, [{**found, **changes}])
        return metric.evaluate(1)

    assert evaluated()['certified/ap_0.05'] == 1
    # 8 x 8 of 10 x 10 is 0.64; 7 x 7 is 0.49.
    wide = slots['lower'].clone(), slots['upper'].clone()
    wide[0][[0, 2], 0, :2] += 1 - 1.5
    wide[1][[0, 2], 0, :2] += 2.5
    changed = {**slots, 'lower': wide[0], 'upper': wide[1]}
    metrics = evaluated(certified_instances=changed)
    assert metrics['certified/ap_0.05'] == 0 and metrics['certified/smoothed_ap'] == 1
    # Another box may appear at both thresholds: one of two is true, at least.
    lower = slots['lower'].clone()
    lower[1, 0] = torch.tensor(OTHER)
    one = {**slots, 'lower': lower, 'thresholds': slots['thresholds'].clone()}
    assert evaluated(certified_instances=one)['certified/ap_0.05'] == 1  # at 0.5
    kept = {k: v[:2] if hasattr(v, 'shape') else v for k, v in one.items()}
    assert evaluated(certified_instances=kept)['certified/ap_0.05'] == 0.5
    # Of another class, the box is true of nothing.
    other = {**slots, 'labels': torch.tensor([1, 0, 1])}
    assert evaluated(certified_instances=other)['certified/ap_0.05'] == 0
    # The object is difficult: there is nothing to find.
    nothing = {k: v[:0] for k, v in found['gt_instances'].items()}
    metrics = evaluated(gt_instances=nothing, ignored_instances=found['gt_instances'])
    assert np.isnan(metrics['certified/ap_0.05'])


def test_mistakes_are_one_sentence():
    for name in ('iou_thr', 'level'):
        with pytest.raises(ValueError, match=f'{name}=1.5 must be above 0 and below 1'):
            CertifiedAP(**{name: 1.5})
    found, nothing = images()
    metric = CertifiedAP()
    with pytest.raises(ValueError, match='mmdiff.SmoothedDetector'):
        metric.process(None, [dict(gt_instances=found['gt_instances'])])
    metric.dataset_meta = dict(classes=('cat',))
    found['certified_instances']['labels'] += 1
    with pytest.raises(ValueError, match='reports class 1, and the set has 1 classes'):
        metric.process(None, [found])
    metric.dataset_meta = None
    nothing['certified_instances']['smoothing']['sigma'] = 0.2
    metric.process(None, [found, nothing])
    with pytest.raises(ValueError, match='smoothed with different settings'):
        metric.evaluate(2)
