"""Objectives on what a detector reports at test time."""

from dataclasses import dataclass

import pytest
import torch
from conftest import CONFIGS, ask, batch_of, run

from mmdiff import OBJECTIVES, PGD
from mmdiff.attacks import APGD, NotApplicable, oracle_of
from mmdiff.attacks.objectives import REPORTED
from mmdiff.attacks.objectives.detections import (
    Candidates,
    DetectionObjective,
    Detections,
    Truth,
)
from mmdiff.attacks.oracle.reported import candidates_of


def clean(model, batch):
    """Preprocessed batch, with ground truth at the scale of the input."""
    oracle = oracle_of(model)
    group = oracle.gather(batch)
    return oracle.preprocess(group.pixels, group.samples, group.frames)


@pytest.mark.parametrize('head', CONFIGS)
def test_what_a_detector_reports_is_among_its_candidates(make_detector, head):
    model, batch = make_detector(head, 'resnet'), clean(make_detector(head), batch_of())
    with torch.no_grad():
        (candidates,) = candidates_of(model, batch)
        (sample,) = model.predict(**rename(batch), rescale=False)
    reported = sample.pred_instances
    assert len(candidates.boxes) > len(reported) > 0
    for box, score, label in zip(reported.bboxes, reported.scores, reported.labels):
        near = (candidates.boxes - box).abs().amax(1) < 1e-3
        same = near & (candidates.labels == label)
        assert ((candidates.scores - score).abs() < 1e-6)[same].any()


def rename(batch):
    return dict(batch_inputs=batch['inputs'], batch_data_samples=batch['data_samples'])


@pytest.mark.parametrize('head', CONFIGS)
def test_a_detector_reports_as_before_afterwards(make_detector, head):
    model, batch = make_detector(head, 'resnet'), clean(make_detector(head), batch_of())
    before = [dict(vars(module)) for module in model.modules()]
    with torch.no_grad():
        candidates_of(model, batch)
    assert [dict(vars(module)) for module in model.modules()] == before


@pytest.mark.parametrize('head', CONFIGS)
@pytest.mark.parametrize('name', REPORTED)
def test_gradients_of_reported_objectives_are_their_slopes(make_detector, head, name):
    model, batch = make_detector(head, 'resnet'), batch_of([(3, 64, 64)], (2,))
    # On fixed proposals the objective is smooth enough for differences.
    attack = APGD(eps=8, objective=name, proposals='fixed')
    oracle = oracle_of(model)
    with oracle.attacked():
        question = ask(attack, model, batch)
        (x,) = (frame.cut() for frame in question.group.frames)
        (grad,), _ = question.gradients([x], 0, 0)
        direction = grad / grad.norm()
        rise = [question.losses([x + h * direction], 0, 0) for h in (0.05, -0.05)]
    slope = (rise[0] - rise[1]).item() / 0.1
    assert slope == pytest.approx(grad.norm().item(), rel=0.05, abs=1e-4)


@pytest.mark.parametrize('head', CONFIGS)
def test_no_image_knows_its_neighbours(make_detector, head):
    model = make_detector(head, 'resnet')
    attack = PGD(eps=8, steps=2, objective='detections')
    together = batch_of([(3, 64, 64)] * 2, (2, 3))
    both = run(attack, model, together)
    alone = run(attack, model, batch_of([(3, 64, 64)], (2,)))
    assert torch.allclose(both.inputs[0], alone.inputs[0], atol=1e-3)


def test_fixed_proposals_are_asked_for_once(make_detector, monkeypatch):
    model, calls = make_detector('faster-rcnn', 'resnet'), []
    predict = model.rpn_head.predict

    def count(*args, **kwargs):
        calls.append(1)
        return predict(*args, **kwargs)

    monkeypatch.setattr(model.rpn_head, 'predict', count)
    for proposals, expected in (('fixed', 1), ('moving', 4)):
        calls.clear()
        attack = APGD(eps=8, steps=3, objective='detections', proposals=proposals)
        run(attack, model, batch_of())
        assert len(calls) == expected


def test_a_detector_that_reports_nothing_is_not_blocked(make_detector):
    model = make_detector('fcos', 'resnet')
    model.bbox_head.test_cfg.min_bbox_size = 10_000  # of no box
    result = run(PGD(eps=8, steps=2, objective='detections'), model, batch_of())
    assert result.stats.zero_grads == result.stats.grad_evals == 2


def test_a_head_that_cannot_do_without_nms_is_one_sentence(make_detector):
    model = make_detector('fcos', 'resnet')
    post_process = model.bbox_head._bbox_post_process

    def with_nms(results, cfg, **kwargs):
        assert cfg.nms['iou_threshold'] > 0
        return post_process(results, cfg, **kwargs)

    model.bbox_head._bbox_post_process = with_nms
    with pytest.raises(NotApplicable, match='FCOS cannot predict without its NMS'):
        run(PGD(objective='detections'), model, batch_of())


def test_a_model_that_reports_no_instances_is_one_sentence(make_detector, monkeypatch):
    model = make_detector('fcos', 'resnet')  # MaskFormer reports a panoptic map alone
    monkeypatch.setattr(model, 'predict', lambda inputs, samples, **kwargs: samples)
    with pytest.raises(NotApplicable, match='FCOS reports no bboxes and no labels'):
        run(PGD(objective='detections'), model, batch_of())


# One object of class 0, and candidates: on it, on it as class 1, elsewhere, on a
# difficult one.
BOXES = [[0, 0, 10, 10], [0, 0, 10, 10], [40, 40, 50, 50], [70, 70, 80, 80]]


def example(scores):
    candidates = Candidates(
        torch.tensor(BOXES).float(), scores, torch.tensor([0, 1, 0, 0])
    )
    truth = Truth(
        torch.tensor(BOXES[:1]).float(),
        torch.tensor([0]),
        torch.tensor([1]),
        torch.tensor(BOXES[3:]).float(),
    )
    return candidates, truth


@pytest.mark.parametrize(
    'objective, signs',
    [
        ('detections', [-1, 1, 1, 0]),
        ('detections_fabrication', [-1, 1, 1, 0]),
        ('margin', [-1, 1, 1, 0]),
        ('targeted', [-1, 1, 1, 0]),
    ],
)
def test_each_moves_the_scores_it_is_about(make_detector, objective, signs):
    scores = torch.tensor([0.7, 0.2, 0.4, 0.6], requires_grad=True)
    goal = oracle_of(make_detector()).goal_of(objective)
    goal(*example(scores)).backward()
    assert scores.grad.sign().tolist() == signs


def test_where_objects_are_gone_false_alarms_are_raised():
    scores = torch.tensor([0.7, 0.2, 0.4, 0.6], requires_grad=True)
    candidates, truth = example(scores)
    moved = Truth(truth.boxes + 20, truth.labels, truth.targets, truth.ignored)
    value = Detections()(candidates, moved)
    value.backward()
    assert torch.isfinite(value) and scores.grad[3] == 0 and scores.grad[:3].min() > 0
    assert value > Detections()(candidates, truth)


def test_a_user_has_objectives_of_their_own(make_detector):
    @OBJECTIVES.register_module(force=True)
    @dataclass
    class FewerBoxes(DetectionObjective):
        weight: float = 1.0

        def __call__(self, candidates, truth):
            return -self.weight * candidates.scores.sum()

    attack = PGD(eps=8, steps=4, objective=dict(type='FewerBoxes', weight=2.0))
    result = run(attack, make_detector('fcos', 'resnet'), batch_of())
    assert result.losses[0] > result.stats.losses[0]


@pytest.mark.parametrize(
    'objective, message',
    [
        (dict(type='NoSuch'), 'cannot be built: .*NoSuch'),
        (dict(type='Detections', minimum=1), "cannot be built: .*'minimum'"),
        ('detection', 'unknown; choose one of'),
    ],
)
def test_objectives_that_are_none_are_one_sentence(objective, message):
    with pytest.raises(ValueError, match=message):
        PGD(objective=objective)


def test_a_model_without_boxes_is_one_sentence(make_detector):
    model, batch = make_detector('fcos', 'resnet'), batch_of()
    predict = model.predict

    def masks_only(*args, **kwargs):
        samples = predict(*args, **kwargs)
        for sample in samples:
            del sample.pred_instances.bboxes
        return samples

    model.predict = masks_only
    with pytest.raises(NotApplicable, match='FCOS reports no bboxes, which'):
        run(PGD(objective='detections'), model, batch)
