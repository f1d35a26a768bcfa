"""Scores of boxes: those of mmdet where it has such, and what it does not have."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders import make_record
from mmdet.evaluation import CocoMetric, LVISMetric, VOCMetric
from mmdet.evaluation.functional import eval_map
from mmdet.structures import DetDataSample
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.structures import InstanceData
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmdiff.evaluation.scoring import GroundTruth, restrict_images, scorer_of
from mmdiff.evaluation.scoring.box_metrics import check_measures
from mmdiff.evaluation.scoring.detection import class_aps, image_ap, image_margin


def sample_of(boxes, labels, ignored=(), scale=1.0):
    sample = DetDataSample(metainfo=dict(scale_factor=(scale, scale)))
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor(boxes).reshape(-1, 4) * scale, labels=torch.tensor(labels)
    )
    boxes = torch.tensor(ignored).reshape(-1, 4) * scale
    labels = torch.zeros(len(boxes), dtype=torch.long)
    sample.ignored_instances = InstanceData(bboxes=boxes, labels=labels)
    return sample


def found_of(boxes, labels, scores):
    return dict(
        bboxes=torch.tensor(boxes).reshape(-1, 4),
        labels=torch.tensor(labels),
        scores=torch.tensor(scores),
    )


def test_ap_of_images_is_mmdets():
    generator = torch.Generator().manual_seed(0)
    found, samples, dets, truths = [], [], [], []
    for _ in range(3):
        corner = torch.rand(12, 2, generator=generator) * 20
        boxes = torch.cat([corner, corner + 20], 1)
        labels = torch.randint(0, 3, (12,), generator=generator)
        scores = torch.rand(12, generator=generator)
        found.append(dict(bboxes=boxes, labels=labels, scores=scores))
        shown = labels[:4] % 2  # no object of class 2
        samples.append(
            sample_of((boxes[:4] + 1).tolist(), shown.tolist(), [boxes[5].tolist()])
        )
        rows = torch.cat([boxes, scores[:, None]], 1).numpy()
        dets.append([rows[labels.numpy() == k] for k in range(3)])
        truths.append(
            dict(
                bboxes=(boxes[:4] + 1).numpy(),
                labels=shown.numpy(),
                bboxes_ignore=boxes[5:6].numpy(),
                labels_ignore=np.zeros(1, int),
            )
        )
    for detections, sample, det, truth in zip(found, samples, dets, truths):
        expected, _ = eval_map(
            [det], [truth], logger='silent', use_legacy_coordinate=True
        )
        assert 0 < expected < 1
        assert image_ap(detections, sample, voc_boxes=True) == pytest.approx(expected)
    for mode in ('area', '11points'):
        _, rows = eval_map(
            dets,
            truths,
            nproc=1,
            logger='silent',
            eval_mode=mode,
            use_legacy_coordinate=True,
        )
        aps = class_aps(found, samples, 'abc', eval_mode=mode, voc_boxes=True)
        assert set(aps) == {'a', 'b'}
        assert list(aps.values()) == pytest.approx([row['ap'] for row in rows[:2]])


def coco_ap(sample, prediction):
    """AP at IoU 0.5 of one class in one image, by pycocotools."""
    coco = COCO()
    crowds = zip(sample.ignored_instances.bboxes.tolist(), [1] * 9)
    objects = [*zip(sample.gt_instances.bboxes.tolist(), [0] * 9), *crowds]
    coco.dataset = dict(images=[dict(id=0)], categories=[dict(id=0)], annotations=[])
    for i, ((x1, y1, x2, y2), crowd) in enumerate(objects, 1):
        box = dict(bbox=[x1, y1, x2 - x1, y2 - y1], area=(x2 - x1) * (y2 - y1))
        box.update(id=i, image_id=0, category_id=0, iscrowd=crowd)
        coco.dataset['annotations'].append(box)
    coco.createIndex()
    rows = [
        dict(image_id=0, category_id=0, bbox=[x1, y1, x2 - x1, y2 - y1], score=score)
        for (x1, y1, x2, y2), score in zip(
            prediction['bboxes'].tolist(), prediction['scores'].tolist()
        )
    ]
    result = COCOeval(coco, coco.loadRes(rows), 'bbox')
    result.evaluate()
    result.accumulate()
    return result.eval['precision'][0, :, 0, 0, 2].mean()


def test_detections_in_a_crowd_count_as_cocos_metric_counts_them():
    """A crowd takes many detections, each by the share of it that lies inside."""
    crowd, thing = [0.0, 0.0, 100.0, 100.0], [120.0, 0.0, 160.0, 40.0]
    inside = [[10.0 * k, 10.0 * k, 10.0 * k + 25, 10.0 * k + 25] for k in range(4)]
    astride = [90.0, 0.0, 118.0, 40.0]  # by a third
    sample = sample_of([thing], [0], [crowd])
    scores = [0.9, 0.8, 0.7, 0.6, 0.5]
    good = found_of([*inside, thing], [0] * 5, scores)
    assert image_ap(good, sample) == 1
    assert coco_ap(sample, good) == pytest.approx(1)
    bad = found_of([*inside[:3], astride, thing], [0] * 5, scores)
    assert image_ap(bad, sample) == pytest.approx(0.5)
    assert coco_ap(sample, bad) == pytest.approx(0.5)
    only = sample_of([], [], [crowd])
    assert image_ap(found_of(inside, [0] * 4, scores[:4]), only) == 1
    assert image_ap(found_of([astride], [0], [0.9]), only) == pytest.approx(0.1)


def test_margin_is_true_scores_less_false_ones():
    """An object found twice, one of class 1 missed, a false alarm, one ignored."""
    boxes = [[0.0, 0.0, 20.0, 20.0], [40.0, 0.0, 60.0, 20.0], [0.0, 40.0, 20.0, 60.0]]
    sample = sample_of(boxes[:2], [0, 1], [boxes[2]])
    where = [boxes[0], boxes[0], boxes[1], boxes[2]]
    found = found_of(where, [0, 0, 2, 0], [0.9, 0.5, 0.3, 0.8])
    assert image_margin(found, sample) == pytest.approx(0.9 - 0.5 - 0.3)
    assert image_margin(found_of([], [], []), sample) == 0
    low = found_of(where, [0, 0, 2, 0], [0.4, 0.1, 0.3, 0.8])
    assert image_ap(low, sample) == image_ap(found, sample)
    assert image_margin(low, sample) < image_margin(found, sample)


def test_ap_of_an_image_at_its_ends():
    box = [[0.0, 0.0, 20.0, 20.0]]
    sample, wrong = sample_of(box, [0]), sample_of(box, [1])
    one = found_of(box, [0], [0.3])
    assert image_ap(one, sample) == 1 and image_ap(one, wrong) == 0
    nothing = found_of([], [], [])
    assert image_ap(nothing, sample) == 0
    # Without objects only false alarms count, but not what is found of ignored ones.
    empty = sample_of([], [])
    assert image_ap(nothing, empty) == 1
    assert image_ap(one, empty) == pytest.approx(0.7)
    difficult = sample_of([], [], box)
    both = found_of([*box, [40.0, 0.0, 60.0, 20.0]], [0, 0], [0.9, 0.3])
    assert image_ap(found_of(box, [0], [0.9]), difficult) == 1
    assert image_ap(both, difficult) == pytest.approx(0.7)
    # A box from 0 to 9 is 10 wide in the metric of VOC: 7.5 / 14.5, not 6.5 / 13.5.
    small = sample_of([[0.0, 0.0, 10.0, 10.0]], [0])
    aside = found_of([[3.5, 0.0, 13.5, 10.0]], [0], [0.9])
    assert image_ap(aside, small) == 0
    assert image_ap(aside, small, voc_boxes=True) == 1
    assert image_margin(aside, small) < 0
    assert image_margin(aside, small, voc_boxes=True) > 0
    # Ground truth that went through Resize.
    scaled = sample_of(box, [0], scale=3.0)
    assert image_ap(one, scaled) == 0
    assert image_ap(one, scaled, 'input') == 1


class BoxMap(BaseMetric):
    """Stands for a metric of boxes."""

    metrics = ['bbox']

    def process(self, data_batch, data_samples):
        self.results += [
            len(sample['pred_instances']['labels']) for sample in data_samples
        ]

    def compute_metrics(self, results):
        return {'a/count': float(sum(results)), 'a/mAP': 0.5, 'a/table': 'text'}


def make_scorer(metric, *samples, classes='abc', gt_scale='original'):
    truth = GroundTruth(len(samples), samples.__getitem__, classes, gt_scale)
    return scorer_of('detection', Evaluator(metric), truth)


BOX = [[0.0, 0.0, 20.0, 20.0]]


def test_the_scorer_measures_at_the_scale_of_the_ground_truth():
    sample = sample_of(BOX, [0], scale=3.0)
    one = found_of(BOX, [0], [0.3])
    assert make_scorer(BoxMap(), sample).image_score(0, one) == 0
    scorer = make_scorer(BoxMap(), sample, gt_scale='input')
    assert scorer.image_score(0, one) == 1
    assert scorer.margin(0, one) == pytest.approx(0.3)
    assert scorer.settings() != make_scorer(BoxMap(), sample).settings()


def test_the_scorer_counts_boxes_as_the_voc_metric_does_if_that_is_in_use():
    small = sample_of([[0.0, 0.0, 10.0, 10.0]], [0])
    aside = found_of([[3.5, 0.0, 13.5, 10.0]], [0], [0.9])
    voc = make_scorer(VOCMetric(metric='mAP', eval_mode='11points'), small)
    assert voc.image_score(0, aside) == 1
    assert make_scorer(BoxMap(), small).image_score(0, aside) == 0
    record = make_record([1.0], predictions=[aside])
    assert voc.per_class(record) == {'a': pytest.approx(1)}
    assert voc.mean_per_class(record) == pytest.approx(1)


def test_the_evaluator_measures_kept_predictions():
    samples = [sample_of(BOX, [0]), sample_of(BOX, [1])]
    scorer = make_scorer(BoxMap(), *samples)
    predictions = [found_of(BOX * 2, [0, 0], [0.9, 0.3]), found_of(BOX, [0], [0.9])]
    record = make_record([1.0, 0.0], predictions=predictions)
    # Words in the metrics are left out.
    assert scorer.measure(record) == {'a/count': 3.0, 'a/mAP': 0.5}
    assert 'pred_instances' not in samples[0]


def test_a_metric_that_is_missing_later_is_zero_and_none_at_first_is_an_error():
    scorer = make_scorer(BoxMap(), sample_of(BOX, [0]))
    record = make_record([1.0], predictions=[found_of(BOX, [0], [0.9])])
    scorer.evaluator.metrics[0].compute_metrics = lambda results: {}
    with pytest.raises(ValueError, match='predicts nothing on the clean images'):
        scorer.measure(record)
    scorer = make_scorer(BoxMap(), sample_of(BOX, [0]))
    scorer.measure(record)
    scorer.evaluator.metrics[0].compute_metrics = lambda results: {}
    assert scorer.measure(record) == {'a/count': 0, 'a/mAP': 0}


@pytest.mark.parametrize('kinds', [['recall'], ['segm'], []])
def test_an_evaluator_without_the_map_of_boxes_is_refused(kinds):
    metric = BoxMap()
    metric.metrics = kinds
    with pytest.raises(ValueError, match='compares the mAP of boxes; set test_eval'):
        make_scorer(metric, sample_of(BOX, [0]))


def test_an_evaluator_that_is_told_to_leave_the_map_out_is_refused():
    metric = CocoMetric(metric='bbox', metric_items=['AR@100'])
    with pytest.raises(ValueError, match="tells no mAP; add 'mAP' to its metric_items"):
        make_scorer(metric, sample_of(BOX, [0]))
    metric = CocoMetric(metric='bbox', metric_items=['AR@100', 'mAP_50'])
    make_scorer(metric, sample_of(BOX, [0]))
    check_measures(SimpleNamespace(metric_items=['AP50']))  # as LVIS's names it


def test_predictions_without_boxes_and_samples_without_truth_are_refused():
    scorer = make_scorer(BoxMap(), sample_of(BOX, [0]))
    output = DetDataSample(pred_instances=InstanceData(labels=torch.zeros(1)))
    with pytest.raises(ValueError, match='predicts only labels'):
        scorer.read(output)
    with pytest.raises(ValueError, match='no ground truth; add LoadAnnotations'):
        scorer.check_sample(DetDataSample())
    scorer.check_sample(sample_of(BOX, [0]))
    boxes_only = DetDataSample(gt_instances=InstanceData(bboxes=torch.zeros(1, 4)))
    with pytest.raises(ValueError, match='no ground truth; add LoadAnnotations'):
        scorer.check_sample(boxes_only)


def test_a_prediction_is_read_and_put_back_as_it_was():
    scorer = make_scorer(BoxMap(), sample_of(BOX, [0]))
    prediction = found_of(BOX, [0], [0.3])
    sample = DetDataSample()
    scorer.put(sample, prediction)
    again = scorer.read(sample)
    assert set(again) == set(scorer.fields)
    assert all(torch.equal(again[name], prediction[name]) for name in again)


@pytest.mark.parametrize(
    'first, second, differ',
    [
        ([0.9, 0.5], [0.5, 0.9], False),  # another order
        ([0.9], [0.9, 0.05], False),  # a score at the threshold
        ([0.9], [0.91], True),
        ([0.9], [], True),
        ([], [], False),
    ],
)
def test_noise_moves_the_surest_detections_and_rounding_does_not(first, second, differ):
    scorer = make_scorer(BoxMap(), sample_of(BOX, [0]))
    one, other = ({'scores': torch.tensor(s)} for s in (first, second))
    assert scorer.differ(one, other) is differ


def test_masks_are_taken_off_a_sample():
    sample = sample_of(BOX, [0])
    sample.gt_instances.masks = torch.ones(1, 99, 99)
    scorer = make_scorer(BoxMap(), sample)
    scorer.lighten(sample)
    assert 'masks' not in sample.gt_instances and len(sample.gt_instances) == 1


def test_only_metrics_with_a_file_of_their_own_are_restricted_to_images():
    plain, listed = BoxMap(), BoxMap()
    listed._coco_api = 'a file of many'
    restrict_images(Evaluator([plain, listed]), [3, 4])
    assert listed.img_ids == [3, 4] and not hasattr(plain, 'img_ids')


def test_lvis_metric_counts_the_tested_images_only(monkeypatch, tmp_path):
    """It keeps its annotations under another name than COCO's."""
    module = 'mmdet.evaluation.metrics.lvis_metric'
    monkeypatch.setattr(f'{module}.lvis', 'installed')
    monkeypatch.setattr(f'{module}.LVIS', lambda path: path, raising=False)
    file = tmp_path / 'lvis.json'
    file.write_text('{}')
    metric = LVISMetric(ann_file=str(file))
    restrict_images(Evaluator([metric]), [3, 4])
    assert metric.img_ids == [3, 4]


def test_a_task_without_a_scorer_is_refused():
    with pytest.raises(ValueError, match="task='depth' has no scorer; there are"):
        scorer_of('depth', Evaluator([]), GroundTruth(0, None))
