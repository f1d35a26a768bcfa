"""What attacks ascend, each in its own direction."""

import pytest
import torch
from conftest import CONFIGS, batch_of, preprocessed, run
from mmdet.models.losses import CrossEntropyLoss, FocalLoss
from torch import nn

from mmdiff import PGD
from mmdiff.attacks.dag_proposals import propose
from mmdiff.attacks.objectives import NAMES, REPORTED
from mmdiff.attacks.objectives.detection import (
    OBJECTIVES,
    balanced_classes,
    sum_losses,
    with_truth,
)
from mmdiff.attacks.oracle.ground_truth import to_input_scale
from mmdiff.utils.modules import num_classes


def test_their_names_are_those_that_attacks_accept():
    assert NAMES['detection'] == (*OBJECTIVES, *REPORTED, 'lagrange')


def scaled(batch):
    return [to_input_scale(s, 'original') for s in batch['data_samples']]


@pytest.mark.parametrize('head', CONFIGS)
@pytest.mark.parametrize('name', OBJECTIVES)
def test_each_objective_moves_its_own_loss(make_detector, head, name):
    model = make_detector(head, 'resnet')
    attack = PGD(eps=8, steps=4, objective=name, random_start=False)
    losses = run(attack, model, batch_of()).stats.losses
    clean, last = losses[0], losses[4]
    assert last > clean
    assert (clean < 0) == (OBJECTIVES[name].sign < 0)
    assert attack.threat_model()['objective'] == name


@pytest.mark.parametrize('head', CONFIGS)
def test_vanishing_lowers_scores_and_fabrication_raises_them(make_detector, head):
    model = make_detector(head, 'resnet')
    batch = batch_of()

    def scores(images):
        clean = preprocessed(model, [batch['inputs'][0].float()], batch)
        seen = preprocessed(model, images, batch)
        with torch.no_grad():
            proposals = propose(model, clean, 0.9, 200)
            logits = proposals.logits(seen)
            return proposals.scores(logits)[:, :-1].sum().item()

    ends = {
        name: scores(PGD(eps=8, steps=5, objective=name)(model, batch))
        for name in ('vanishing', 'fabrication')
    }
    clean = scores([batch['inputs'][0].float()])
    assert ends['vanishing'] < clean < ends['fabrication']


def test_mislabel_shifts_every_class_and_keeps_the_boxes(make_detector):
    model = make_detector('fcos', 'resnet')
    (sample,) = scaled(batch_of(num_items=(5,)))
    before = sample.gt_instances.labels.clone()
    shifts = set()
    for seed in range(20):
        wrong = with_truth(sample, model, 'mislabel', seed)
        shift = (wrong.gt_instances.labels - before) % 5
        assert len(shift.unique()) == 1 and shift[0] != 0
        shifts.add(shift[0].item())
        assert torch.equal(wrong.gt_instances.bboxes, sample.gt_instances.bboxes)
    assert shifts == {1, 2, 3, 4}
    assert torch.equal(sample.gt_instances.labels, before)


def test_vanishing_empties_the_ground_truth_of_a_copy(make_detector):
    (sample,) = scaled(batch_of())
    sample.ignored_instances = sample.gt_instances[:1]
    empty = with_truth(sample, make_detector(), 'vanishing', 0)
    assert len(empty.gt_instances) == len(empty.ignored_instances) == 0
    assert len(sample.gt_instances) == 3 and len(sample.ignored_instances) == 1


class Head(nn.Module):
    def __init__(self, loss_cls):
        super().__init__()
        self.loss_cls = loss_cls


@pytest.mark.parametrize('loss', [CrossEntropyLoss(), FocalLoss()])
def test_cwa_counts_every_class_the_same(loss):
    """With one anchor per object the positives' loss is the mean of class means."""
    torch.manual_seed(0)
    model = Head(loss)
    classes = 4 if isinstance(loss, FocalLoss) else 5
    target = torch.tensor([0, 0, 0, 2, 4, 4])  # 4 is background
    objects = target[:4]
    logits = torch.randn(6, classes)
    each = loss(logits, target, reduction_override='none').reshape(6, -1).sum(1)
    with balanced_classes(model, objects):
        given = model.loss_cls(logits, target, avg_factor=4)
        twice = model.loss_cls(logits, target, torch.full((6,), 2.0), avg_factor=4)
    means = torch.stack([each[:3].mean(), each[3]])
    # A class's share of the four objects is two; background counts as it did.
    expected = (means.sum() * 2 + each[4:].sum()) / 4
    assert given.item() == pytest.approx(expected.item(), rel=1e-5)
    assert twice.item() == pytest.approx(2 * given.item(), rel=1e-5)
    plain = model.loss_cls(logits, target, avg_factor=4)
    assert plain.item() == pytest.approx(each.sum().item() / 4, rel=1e-5)
    with balanced_classes(model, objects[:1]):  # one class: nothing to balance
        alone = model.loss_cls(logits, target, avg_factor=4)
    assert alone.item() == pytest.approx(plain.item(), rel=1e-5)


def test_objectives_a_head_cannot_serve_are_one_sentence(make_detector):
    with pytest.raises(ValueError, match='No head of MSELoss'):
        num_classes(nn.MSELoss())
    detector = make_detector('fcos', 'resnet')
    detector.loss = lambda inputs, samples: dict(loss_mask=inputs.sum())
    with pytest.raises(ValueError, match="objective='cls', only loss_mask; use") as e:
        PGD(objective='cls')(detector, batch_of())
    assert "'total'" in str(e.value) and "'reg'" not in str(e.value)

    def first_box(inputs, samples):
        return dict(loss_bbox=inputs.sum() * samples[0].gt_instances.bboxes[0].sum())

    detector.loss = first_box
    with pytest.raises(ValueError, match='FCOS has no loss for an image .* use') as e:
        PGD(objective='fabrication')(detector, batch_of())
    assert str(e.value).endswith("use objective='total' or 'reg'.")
    detector.loss = lambda inputs, samples: [][0]
    with pytest.raises(IndexError, match='list index out of range'):  # its own error
        PGD(objective='fabrication')(detector, batch_of())
    (sample,) = scaled(batch_of())
    del sample.gt_instances
    with pytest.raises(ValueError, match='about boxes and this model has none'):
        with_truth(sample, detector, 'vanishing', 0)


@pytest.mark.parametrize(
    'names, found, shown, usable',
    [
        # Of AutoAssign, FreeAnchor and CornerNet: no such parts; of CenterNet: one.
        (['loss_pos', 'loss_neg'], 'none', 'loss_pos, loss_neg', "'total'"),
        (['det_loss', 'acc'], 'none', 'det_loss', "'total'"),
        (
            ['loss_center_heatmap', 'loss_wh'],
            'none',
            'loss_center_heatmap, loss_wh',
            "'total' or 'reg'",
        ),
        # Of YOLOX, VarifocalNet and FSAF; of stages, as a DETR's.
        (
            ['loss_cls', 'loss_bbox'],
            'unfit',
            'loss_cls, loss_bbox',
            "'total' or 'cls' or 'reg'",
        ),
        (
            ['loss_cls', 'd0.loss_cls', 'd1.loss_cls'],
            'unfit',
            'loss_cls',
            "'total' or 'cls'",
        ),
    ],
)
def test_cwa_refused_names_the_losses_of_the_head_and_what_they_allow(
    make_detector, names, found, shown, usable
):
    detector = make_detector('fcos', 'resnet')

    def losses(inputs, samples):
        if found == 'unfit':  # targets that are scores, as of YOLOX
            detector.bbox_head.loss_cls(torch.rand(2, 5), torch.rand(2, 5))
        return {name: inputs.sum() for name in names}

    detector.loss = losses
    detector.bbox_head.loss_cls = nn.MSELoss()
    with pytest.raises(ValueError, match="objective='cwa' ") as e:
        PGD(objective='cwa')(detector, batch_of())
    text = str(e.value)
    assert text.endswith(f'(its losses are {shown}); use objective={usable}.')
    assert ('found no classification loss of FCOS' in text) == (found == 'none')


def test_objectives_take_their_losses():
    losses = dict(
        loss_rpn_cls=[torch.tensor(1.0), torch.tensor(2.0)],
        loss_cls=torch.tensor(10.0),
        loss_bbox=torch.tensor([100.0, 300.0]),
        acc=torch.tensor(50.0),
    )
    assert sum_losses(losses, 'total') == 1 + 2 + 10 + 200
    assert sum_losses(losses, 'cls') == 10
    assert sum_losses(losses, 'reg') == 200
    with pytest.raises(ValueError, match="no loss for objective='reg'"):
        sum_losses(dict(loss=torch.tensor(1.0)), 'reg')
