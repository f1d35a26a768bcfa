"""Predictions are of the image alone, and heads say the same in tests and in losses."""

import copy

import pytest
import torch
from classifiers import make_batch, make_classifier
from conftest import batch_of

from mmdiff.attacks import oracle_of
from mmdiff.attacks.probes import (
    ModelProbe,
    Probes,
    probe_model,
    probe_predictions,
    probe_truth,
)
from mmdiff.evaluation.checks import check_probes


@pytest.fixture
def detector(make_detector):
    model = make_detector('fcos', 'resnet')
    model.test_cfg.score_thr = 0.0  # it knows nothing, and says so
    return model


def flags_of(model, *probes):
    """Codes of flags, by the probes that are asked."""
    oracle, batch, found = oracle_of(model), batch_of([(3, 64, 64)]), ModelProbe(1)
    for probe in probes:
        probe(oracle, batch, found)
    return [flag.code for flag in check_probes(Probes(found), 'total')], found


def through_predict(model, change):
    """Let predictions go through a function of the samples that they were made for."""
    predict = model.predict

    def changed(inputs, samples, *args, **kwargs):
        truths = [sample.clone() for sample in samples]
        return change(truths, predict(inputs, samples, *args, **kwargs))

    model.predict = changed


def test_a_sound_detector_is_not_flagged(detector):
    codes, found = flags_of(detector, probe_predictions)
    assert codes == [] and found.passes == 4


def test_predictions_that_follow_the_truth_are_flagged(detector):
    def help_out(truths, samples):
        for truth, sample in zip(truths, samples):
            there = torch.isin(
                sample.pred_instances.labels, truth.gt_instances.labels[:1]
            )
            sample.pred_instances.scores[there] += 0.5
        return samples

    through_predict(detector, help_out)
    assert flags_of(detector, probe_predictions)[0] == ['reads_truth']


def test_predictions_that_are_kept_by_name_are_flagged(detector):
    kept = {}
    through_predict(
        detector, lambda truths, samples: kept.setdefault(truths[0].img_id, samples)
    )
    codes, found = flags_of(detector, probe_predictions)
    assert codes == ['predictions_stuck'] and found.stuck == 1


def test_predictions_that_are_kept_by_the_looks_of_an_image_are_flagged(detector):
    predict, kept = detector.predict, []

    def remembered(inputs, samples, **kwargs):
        thumbnail = torch.nn.functional.adaptive_avg_pool2d(inputs, 4)
        for known, predictions in kept:
            if (known - thumbnail).abs().max() < 0.5:
                return copy.deepcopy(predictions)
        kept.append((thumbnail, predict(inputs, samples, **kwargs)))
        return copy.deepcopy(kept[-1][1])

    detector.predict = remembered
    codes, found = flags_of(detector, probe_predictions)
    # The inverted image looks otherwise: it alone has predictions of its own.
    assert codes == ['predictions_stuck'] and found.stuck == 1 and len(kept) == 2


def smooth_images(count=2):
    """Images whose thumbnails differ, and those of their inverses too."""
    ramp = torch.arange(32) * 6.0 + torch.arange(32)[:, None]
    return make_batch([ramp.expand(3, -1, -1).to(torch.uint8)] * count, [0] * count)


def stuck_of(model):
    found = ModelProbe(2)
    probe_predictions(oracle_of(model), smooth_images(), found)
    return found.stuck


def test_scores_of_a_classifier_that_are_kept_by_looks_are_flagged():
    model = make_classifier()
    assert stuck_of(model) == 0
    predict, kept = model.predict, []

    def remembered(inputs, samples, **kwargs):
        thumbnail = torch.nn.functional.adaptive_avg_pool2d(inputs, 4)
        for known, predictions in kept:
            if (known - thumbnail).abs().max() < 0.1:
                return copy.deepcopy(predictions)
        kept.append((thumbnail, predict(inputs, samples, **kwargs)))
        return copy.deepcopy(kept[-1][1])

    model.predict = remembered
    assert stuck_of(model) == 2
    assert len(kept) == 2  # the inverse has scores of its own


def test_saturated_scores_may_stay():
    model = make_classifier()
    model.head.fc.weight.data *= 0
    model.head.fc.bias.data = torch.arange(10) * 1e3
    assert stuck_of(model) == 0


def test_votes_may_stay():
    """Of all samples for one class, of the inverse as well."""
    model = make_classifier()
    predict = model.predict

    def voted(inputs, samples, **kwargs):
        return [s.set_pred_score(torch.eye(10)[3]) for s in predict(inputs, samples)]

    model.predict = voted
    assert stuck_of(model) == 0


def test_fresh_noise_reads_no_truth(detector):
    extract_feat, generator = detector.extract_feat, torch.Generator()
    detector.extract_feat = lambda x: extract_feat(
        x + torch.randn(x.shape, generator=generator)
    )
    assert flags_of(detector, probe_predictions)[0] == []


def test_a_head_that_scores_otherwise_for_losses_is_flagged(detector):
    head = detector.bbox_head
    forward = head.forward

    def other(features):
        scores, *rest = forward(features)
        return [x / 2 if head.training else x for x in scores], *rest

    head.forward = other
    probe = probe_model(oracle_of(detector), batch_of([(3, 64, 64)]))
    assert probe.head_gap == pytest.approx(0.5) and not probe.test_gap
    (flag,) = check_probes(Probes(probe), 'total')
    assert flag.code == 'other_under_attack' and 'heads score' in flag.text


def test_features_that_change_on_the_way_to_the_head_are_flagged(detector):
    predict = detector.predict

    def averaged(inputs, samples, **kwargs):
        plain = detector.extract_feat
        views = [inputs, inputs.flip(-1)]
        detector.extract_feat = lambda x: tuple(
            (a + b.flip(-1)) / 2 for a, b in zip(*map(plain, views))
        )
        try:
            return predict(inputs, samples, **kwargs)
        finally:
            detector.extract_feat = plain

    detector.predict = averaged
    probe = probe_model(oracle_of(detector), batch_of([(3, 64, 64)]))
    assert probe.test_gap > 0.01 and probe.more_calls == 0
    (flag,) = check_probes(Probes(probe), 'total')
    assert flag.code == 'other_under_attack' and 'those of a test' in flag.text


def test_views_that_only_a_test_asks_for_are_flagged(detector):
    predict = detector.predict

    def merged(inputs, samples, **kwargs):
        first = predict(inputs, copy.deepcopy(samples), **kwargs)
        predict(inputs.flip(-1), copy.deepcopy(samples), **kwargs)
        return first

    detector.predict = merged
    probe = probe_model(oracle_of(detector), batch_of([(3, 64, 64)]))
    assert probe.test_gap == 0 and probe.more_calls == 1
    (flag,) = check_probes(Probes(probe), 'total')
    assert flag.code == 'other_under_attack' and '(by 1)' in flag.text


def test_boxes_in_other_units_are_no_other_head(detector):
    """FCOS has them, where they are normalised by the stride."""
    detector.bbox_head.norm_on_bbox = True
    probe = probe_model(oracle_of(detector), batch_of([(3, 64, 64)]))
    assert (probe.head_gap, probe.test_gap) == (0, 0)


def test_losses_against_other_classes_are_compared(detector):
    found = ModelProbe(1)
    probe_truth(oracle_of(detector), batch_of([(3, 64, 64)]), found)
    assert set(found.fit_classes) == {'-1', '+1'}
    assert all(0.5 < ratio < 2 for ratio in found.fit_classes.values())
