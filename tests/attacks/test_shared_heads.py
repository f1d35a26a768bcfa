"""Heads are asked once for all images where each image's answer is the same alone."""

import pytest
import torch
from conftest import ask, batch_of

from mmdiff.attacks import PGD
from mmdiff.attacks.oracle.shared_heads import SharedHeads

BATCH = ([(3, 64, 96)] * 3, (1, 4, 2))
DENSE = {'retinanet': 'bbox_head', 'fcos': 'bbox_head', 'faster-rcnn': 'rpn_head'}
ALONE = {
    'draws': lambda head, outputs: (torch.rand(1), outputs)[1],
    'writes': lambda head, outputs: (setattr(head, 'seen', 1), outputs)[1],
    'mixes': lambda head, outputs: (*outputs, [torch.zeros(1)]),
    'names': lambda head, outputs: (*outputs, ['level']),
}


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
    assert passes == [3] * (4 if name == 'faster-rcnn' else 3)
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
    passes = counted(model.bbox_head, ALONE[why])
    question = ask(PGD(), model, batch_of(*BATCH))
    heads = SharedHeads(model)
    with question.oracle.attacked():
        features = model.extract_feat(torch.rand(3, 3, 64, 96))
        assert heads.ask(features, 3, question.oracle.is_written) == []
        assert passes == [3]
        # It is not tried again.
        assert heads.ask(features, 3, question.oracle.is_written) == []
        assert passes == [3]
    assert not hasattr(model.bbox_head, 'seen')
