"""Heads are asked once for all images where each image's answer is the same alone."""

import numpy as np
import pytest
import torch
from conftest import ask, batch_of
from mmdet.models import CascadeRPNHead

from mmdiff.attacks import PGD
from mmdiff.attacks.oracle.shared_heads import (
    SharedHeads,
    _has_each_image,
    _takes_features_alone,
)

BATCH = ([(3, 64, 96)] * 3, (1, 4, 2))
DENSE = {'retinanet': 'bbox_head', 'fcos': 'bbox_head', 'faster-rcnn': 'rpn_head'}
ALONE = {
    'draws': lambda head, outputs: (noisy(outputs, torch.rand(1).item()), outputs[1]),
    'numpy': lambda head, outputs: (noisy(outputs, np.random.rand()), outputs[1]),
    'batch': lambda head, outputs: ([x - x.mean() for x in outputs[0]], outputs[1]),
    'writes': lambda head, outputs: (setattr(head, 'seen', 1), outputs)[1],
    'list': lambda head, outputs: (head.kept.append(1), outputs)[1],
}


def noisy(outputs, noise):
    return [x + noise for x in outputs[0]]


def counted(head, change=lambda head, outputs: outputs):
    """Let the head's passes be counted, and what it gives be changed."""
    passes, forward = [], head.forward

    def counting(x):
        passes.append(len(x[0]))
        return change(head, forward(x))

    head.forward = counting
    return passes


@pytest.mark.parametrize('name', DENSE)
def test_the_head_is_asked_once_and_the_objectives_are_those_alone(
    make_detector, name, monkeypatch
):
    model = make_detector(name, 'resnet')
    passes = counted(getattr(model, DENSE[name]))
    attack = PGD(steps=2, proposals='fixed')
    attack(model, batch_of(*BATCH))
    # Two gradients, the objective of the end; proposals before, by all images at once.
    # And once for one image: whether it has the same outputs alone.
    expected = [3] * (4 if name == 'faster-rcnn' else 3)
    expected.insert(2 if name == 'faster-rcnn' else 1, 1)
    assert passes == expected
    question = ask(attack, model, batch_of(*BATCH))
    pixels = question.group.pixels
    with question.oracle.attacked():
        grads, losses = question.gradients(pixels, 0, 0)
        monkeypatch.setattr(SharedHeads, 'ask', lambda *args: [])
        passes.clear()
        alone_grads, alone_losses = question.gradients(pixels, 0, 0)
    assert passes == [1, 1, 1]
    torch.testing.assert_close(losses, alone_losses, rtol=1e-5, atol=1e-6)
    for grad, alone in zip(grads, alone_grads):
        torch.testing.assert_close(grad, alone, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize('why', ALONE)
def test_heads_that_do_more_are_asked_for_each_image(make_detector, why):
    model = make_detector('retinanet', 'resnet')
    model.bbox_head.kept = []
    passes = counted(model.bbox_head, ALONE[why])
    question = ask(PGD(), model, batch_of(*BATCH))
    pixels = question.group.pixels
    with question.oracle.attacked():
        losses = question.losses(pixels, 0, 0)
        # It is not tried again, and nothing is left of the trial.
        passes.clear()
        assert torch.equal(question.losses(pixels, 0, 0), losses)
    assert passes == [1, 1, 1] and model.bbox_head.kept == []
    assert not hasattr(model.bbox_head, 'seen')


def test_what_listens_to_a_head_is_called_once_an_image(make_detector, monkeypatch):
    model = make_detector('retinanet', 'resnet')
    model.bbox_head.register_forward_hook(lambda h, i, o: (noisy(o, 1.0), o[1]))
    question = ask(PGD(), model, batch_of(*BATCH))
    pixels = question.group.pixels
    with question.oracle.attacked():
        losses = question.losses(pixels, 0, 0)
        monkeypatch.setattr(SharedHeads, 'ask', lambda *args: [])
        torch.testing.assert_close(question.losses(pixels, 0, 0), losses)


def test_a_head_that_asks_others_is_left_to_itself():
    assert not _takes_features_alone(CascadeRPNHead(1, 0, [], {}, {}))


@pytest.mark.parametrize('more', [[torch.zeros(1)], ['level'], [torch.zeros(())]])
def test_outputs_need_a_place_for_each_image(more):
    levels = [torch.zeros(3, 2), torch.zeros(3, 1)]
    assert _has_each_image((levels, levels), 3)
    assert not _has_each_image((levels, more), 3)


def test_what_a_backbone_leaves_for_the_loss_stays(make_detector):
    model = make_detector('retinanet', 'resnet')
    extract, loss = model.extract_feat, model.bbox_head.loss_by_feat
    model.left = None

    def extract_feat(x):
        model.left = 3.0
        return extract(x)

    def loss_by_feat(*args, **kwargs):
        losses = loss(*args, **kwargs)
        return {name: [model.left * v for v in value] for name, value in losses.items()}

    model.extract_feat, model.bbox_head.loss_by_feat = extract_feat, loss_by_feat
    question = ask(PGD(), model, batch_of([(3, 64, 96)], (2,)))
    with question.oracle.attacked():
        assert question.losses(question.group.pixels, 0, 0).isfinite().all()
