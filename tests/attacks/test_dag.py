"""DAG's own rules, on a detector whose logits are known."""

import pytest
import torch
from conftest import batch_of, preprocessed, run
from mmengine.structures import InstanceData

from mmdiff import DAG
from mmdiff.attacks import GradientBlocked
from mmdiff.attacks.dag_proposals import (
    Proposals,
    RoIProposals,
    propose,
)
from mmdiff.utils.modules import training_flags

OPEN = dict(active_iou=-1.0, active_score=-1.0)


class Fixed(Proposals):
    """Proposals with given logits."""

    def __init__(self, boxes, values):
        super().__init__(boxes)
        self.values = values

    def logits(self, batch):
        return self.values

    def keep(self, mask):
        self.boxes, self.values = self.boxes[mask], self.values[mask]


def fixed(labels=(0, 1, 2), num_classes=4):
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40], [50, 50, 60, 60]])
    logits = torch.zeros(len(labels), num_classes + 1)
    logits[torch.arange(len(labels)), torch.tensor(labels)] = 5.0
    return Fixed(boxes[: len(labels)], logits)


def sample_with(boxes, labels):
    instances = InstanceData(bboxes=torch.tensor(boxes), labels=torch.tensor(labels))
    return type('Sample', (), dict(gt_instances=instances))()


def test_active_set_needs_overlap_and_score():
    proposals = fixed(labels=(0, 1, 2))
    # The first fits its object; the second overlaps one of another class; the third
    # overlaps nothing.
    sample = sample_with([[0.0, 0, 10, 10], [20, 20, 40, 40]], [0, 3])
    truth = DAG()._assign(proposals, dict(data_samples=[sample]))
    assert truth.tolist() == [0]
    assert proposals.boxes.tolist() == [[0, 0, 10, 10]]


def test_a_proposal_belongs_to_the_object_it_overlaps_most():
    proposals = fixed(labels=(1,))
    sample = sample_with([[0.0, 0, 30, 30], [0, 0, 10, 11]], [0, 1])
    assert DAG()._assign(proposals, dict(data_samples=[sample])).tolist() == [1]


def test_targets_are_absent_classes_one_for_each():
    truth = torch.tensor([0, 0, 2, 2, 1])
    sample = sample_with([[0.0, 0, 1, 1]] * 3, [0, 1, 2])
    seen = set()
    for seed in range(20):
        target = DAG._targets(truth, sample, 8, seed)
        assert set(target.tolist()) <= {3, 4, 5, 6, 7}
        assert len(set(target.tolist())) == 3  # a permutation: no two classes share
        assert target[0] == target[1] and target[2] == target[3]
        seen.add(tuple(target.tolist()))
    assert len(seen) > 5
    full = DAG._targets(truth, sample, 3, 0)  # nothing is absent
    assert (full != truth).all()


def test_weakly_fooled_proposals_still_count():
    proposals = fixed(labels=(3, 3, 0))
    truth, target = torch.tensor([0, 0, 0]), torch.tensor([3, 3, 3])
    strong = DAG(strong_score=0.8)._shown(proposals, proposals.values, truth, target)
    assert strong.tolist() == [3, 3, 0]
    weak = proposals.values.clone()
    weak[0, 3] = 0.5
    shown = DAG(strong_score=0.8)._shown(proposals, weak, truth, target)
    assert shown.tolist() == [0, 3, 0]


@pytest.mark.parametrize('head', ['faster-rcnn', 'retinanet'])
def test_stops_when_no_proposal_shows_its_class(make_detector, head):
    """With a budget of steps to spare, DAG ends early, and then nothing is left."""
    model = make_detector(head, 'resnet')
    batch = batch_of(num_items=(1,))
    image, (sample,) = batch['inputs'][0].float(), batch['data_samples']
    ended = 0
    for label in range(5):  # untrained: not every class shows, or can be taken away
        sample.gt_instances.labels[:] = label
        args = dict(OPEN, strong_score=0.0, max_proposals=20)
        if head != 'faster-rcnn':  # every anchor point is a proposal: take fewer
            args.update(active_iou=0.3)
        attack = DAG(eps=255, steps=100, gamma=8.0, **args)
        result = run(attack, model, batch)
        steps = len(result.stats.losses)
        if not 1 < steps < 100:
            continue
        ended += 1
        assert result.stats.grad_evals == steps - 1
        with torch.no_grad(), training_flags(model, False):
            clean = preprocessed(model, [image], batch)
            proposals = propose(model, clean, attack.iou_threshold, 20)
            truth = attack._assign(proposals, clean)
            seen = preprocessed(model, result.inputs, batch)
            shown = proposals.logits(seen).argmax(1)
        assert len(shown) and not (shown == truth).any()
    assert ended


def test_a_model_that_blocks_gradients_is_named(make_detector):
    model = make_detector('retinanet', 'resnet')
    forward = model.backbone.forward
    model.backbone.forward = lambda x: tuple(f.detach() for f in forward(x))
    batch = batch_of(num_items=(1,))
    with pytest.raises(GradientBlocked, match='no attack can see through it'):
        for label in range(5):  # untrained: not every class shows
            batch['data_samples'][0].gt_instances.labels[:] = label
            DAG(eps=8, steps=2, **OPEN)(model, batch)


def test_published_form_has_no_budget_but_the_steps(make_detector):
    attack = DAG(steps=20, gamma=2.0, strong_score=2.0, max_proposals=100, **OPEN)
    result = run(attack, make_detector('faster-rcnn', 'resnet'), batch_of())
    assert 2 < result.stats.max_delta <= 2.0 * 20


@pytest.mark.parametrize('backbone', ['resnet', 'diffusion'])
def test_proposals_are_denser_than_the_detectors_own(make_detector, backbone):
    model = make_detector('faster-rcnn', backbone)
    batch = preprocessed(model, [batch_of()['inputs'][0].float()], batch_of())
    with torch.no_grad():
        sparse = RoIProposals(model, batch, 0.7, 1000)
        dense = RoIProposals(model, batch, 0.9, 1000)
    assert len(dense.boxes) > len(sparse.boxes)
    logits = dense.logits(batch)
    assert logits.shape == (len(dense.boxes), 6)
    assert torch.allclose(dense.scores(logits).sum(1), torch.ones(len(logits)))
