"""The seam of tasks: what a classification is worth, measured by mmpretrain."""

import pytest
import torch
from builders import make_record
from mmengine.evaluator import BaseMetric, Evaluator

from mmdiff.evaluation.entry import main_metric
from mmdiff.evaluation.record import RunRecord
from mmdiff.evaluation.scoring import GroundTruth, scorer_of

pytest.importorskip('mmpretrain')
LABELS = (0, 1, 1)
CLASSES = ('cat', 'dog', 'cow')


@pytest.fixture
def scorer():
    from mmpretrain.evaluation import Accuracy
    from mmpretrain.structures import DataSample

    samples = [DataSample().set_gt_label(label) for label in LABELS]
    truth = GroundTruth(len(samples), samples.__getitem__, CLASSES)
    return scorer_of('classification', Evaluator(Accuracy(topk=(1,))), truth)


def prediction(*scores):
    scores = torch.tensor(scores)
    return {'pred_score': scores, 'pred_label': scores.argmax().reshape(1)}


@pytest.fixture
def record(scorer):
    """The first two images are right."""
    predictions = [
        prediction(0.7, 0.2, 0.1),
        prediction(0.3, 0.4, 0.3),
        prediction(0.1, 0.3, 0.6),
    ]
    scores = [scorer.image_score(i, found) for i, found in enumerate(predictions)]
    return make_record(scores, predictions=predictions)


def test_an_image_is_worth_one_if_its_class_is_right(record):
    assert record.score.tolist() == [1, 1, 0]


def test_the_accuracy_of_mmpretrain_is_the_mean_score(scorer, record):
    metrics = scorer.measure(record)
    assert metrics == {'accuracy/top1': pytest.approx(200 / 3)}
    assert main_metric(metrics) == pytest.approx(record.score.mean())


def test_the_margin_is_the_true_score_less_the_highest_other(scorer, record):
    assert scorer.margins(record) == pytest.approx([0.5, 0.1, -0.3])


def test_accuracy_by_class_leaves_out_classes_without_images(scorer, record):
    assert scorer.per_class(record) == {'cat': 1.0, 'dog': 0.5}
    assert scorer.mean_per_class(record) == 0.75


def test_a_record_of_classifications_is_read_back(scorer, record, tmp_path):
    record.save(tmp_path / 'a', 'run')
    again = RunRecord.load(tmp_path / 'a', 3, 'run')
    assert scorer.measure(again) == scorer.measure(record)
    assert set(again.predictions[0]) == set(scorer.fields)


def test_a_prediction_is_read_and_put_back_as_it_was(scorer):
    from mmpretrain.structures import DataSample

    sample, given = DataSample(), prediction(0.7, 0.2, 0.1)
    scorer.put(sample, given)
    again = scorer.read(sample)
    assert all(torch.equal(again[name], given[name]) for name in scorer.fields)
    with pytest.raises(ValueError, match='predicts no pred_score'):
        scorer.read(DataSample())


def test_noise_moves_scores_and_rounding_does_not(scorer):
    one = prediction(0.7, 0.2, 0.1)
    assert not scorer.differ(one, prediction(0.7 + 1e-5, 0.2 - 1e-5, 0.1))
    assert scorer.differ(one, prediction(0.69, 0.21, 0.1))


def test_noise_of_nearly_equal_scores_is_noise(scorer, record):
    """Of logits times 1e-4, every draw would have been the same."""
    one = prediction(1 / 3 + 1e-5, 1 / 3, 1 / 3 - 1e-5)
    assert scorer.differ(one, prediction(1 / 3, 1 / 3 + 1e-5, 1 / 3 - 1e-5))
    assert not scorer.differ(one, prediction(1 / 3 + 1.01e-5, 1 / 3, 1 / 3 - 1e-5))
    assert scorer.score_spread(record) > 0.5
    record.predictions = [one] * 3
    assert scorer.score_spread(record) == pytest.approx(6e-5, rel=0.01)


def test_an_evaluator_without_accuracy_and_samples_without_a_class_are_refused(scorer):
    from mmpretrain.structures import DataSample

    class Other(BaseMetric):
        def process(self, data_batch, data_samples):
            pass

        def compute_metrics(self, results):
            return {}

    with pytest.raises(ValueError, match='compared by its accuracy; set test_eval'):
        scorer_of('classification', Evaluator(Other()), scorer.truth)
    with pytest.raises(ValueError, match='has no one true class'):
        scorer.check_sample(DataSample())
    with pytest.raises(ValueError, match='has no one true class'):
        scorer.check_sample(DataSample().set_gt_label([0, 1]))
    scorer.check_sample(scorer.truth.sample(0))


def test_scores_that_are_no_numbers_are_never_right(scorer):
    """mmpretrain's accuracy counts them as wrong; their argmax is the first of them."""
    nothing = [prediction(*[float('nan')] * 3) for _ in LABELS]
    scores = [scorer.image_score(i, one) for i, one in enumerate(nothing)]
    assert scores == [0, 0, 0]
    measured = scorer.measure(make_record(scores, predictions=nothing))
    assert measured == {'accuracy/top1': 0}


@pytest.mark.parametrize(
    'settings', [{'topk': 2}, {'topk': (2, 3)}, {'thrs': 0.5}, {'thrs': (0.0, 0.5)}]
)
def test_an_accuracy_that_is_no_share_of_right_images_is_refused(scorer, settings):
    """Of topk=2 the percents would be taken for shares: 83.3 instead of 0.833."""
    from mmpretrain.evaluation import Accuracy

    with pytest.raises(ValueError, match='let 1 be in topk'):
        scorer_of('classification', Evaluator(Accuracy(**settings)), scorer.truth)
    for fine in ({'topk': (1, 2)}, {'thrs': None}, {'thrs': 0.0}):
        scorer_of('classification', Evaluator(Accuracy(**fine)), scorer.truth)


@pytest.mark.parametrize('topk', [(1,), (1, 2), (3, 1)])
def test_an_image_is_right_where_accuracy_counts_it_as_right(scorer, topk):
    """Ties go to whom topk names first; no score below the threshold is right."""
    from mmpretrain.evaluation import Accuracy

    scorer = scorer_of('classification', Evaluator(Accuracy(topk=topk)), scorer.truth)
    several = [
        [0.5, 0.5, 0.0],
        [0.4, 0.2, 0.4],
        [1 / 3] * 3,
        [-0.1, -0.2, -0.9],
        [0.0] * 3,
    ]
    for scores in several:
        predictions = [prediction(*scores)] * len(LABELS)
        right = [scorer.image_score(i, one) for i, one in enumerate(predictions)]
        measured = scorer.measure(make_record(right, predictions=predictions))
        assert measured['accuracy/top1'] == pytest.approx(100 * sum(right) / 3), scores
