"""DAG's boxes and class scores are those that the detector itself predicts."""

import pytest
import torch
from conftest import batch_of, preprocessed, run
from mmdet.models.dense_heads import CascadeRPNHead
from mmengine.config import ConfigDict
from test_any_detector import NAMES, build
from torch import nn

from mmdiff import DAG
from mmdiff.attacks import NotApplicable
from mmdiff.attacks.dag_proposals import propose

OPEN = dict(active_iou=-1.0, active_score=-1.0)
YOLOV3 = 'yolo/yolov3_d53_8xb8-320-273e_coco'
SSD = 'ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco'
DETRS = {
    'detr': 'detr/detr_r50_8xb2-150e_coco',
    'conditional': 'conditional_detr/conditional-detr_r50_8xb2-50e_coco',
    'dab': 'dab_detr/dab-detr_r50_8xb2-50e_coco',
    'deformable': 'deformable_detr/deformable-detr_r50_16xb2-50e_coco',
    'two-stage': 'deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco',
    'dino': 'dino/dino-4scale_r50_8xb2-12e_coco',
    'ddq': 'ddq/ddq-detr-4scale_r50_8xb2-12e_coco',
}


def small(name):
    """A relative of DETR with an opinion, in a size for tests."""
    changes = {'backbone.depth': 18, 'num_queries': 20}
    if name == 'ddq':  # its queries are chosen by NMS
        changes['num_queries'] = 100
    channels = [128, 256, 512]
    changes['neck.in_channels'] = channels
    if name in ('detr', 'conditional', 'dab'):
        changes['neck.in_channels'] = channels[-1:]
    changes['encoder.num_layers'], changes['decoder.num_layers'] = 1, 2
    changes['test_cfg'] = ConfigDict(max_per_img=changes['num_queries'])
    model = build(DETRS[name], **changes)
    opinionated(model.bbox_head)
    return model


def opinionated(head):
    """Untrained heads say the same everywhere: give them something to say."""
    generator = torch.Generator().manual_seed(1)
    for parameter in head.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += 0.1 * noise


def one_image(model, seed=0):
    batch = batch_of([(3, 64, 96)], (2,), first_id=seed)
    return preprocessed(model, [batch['inputs'][0].float()], batch)


@torch.no_grad()
def proposed(model, seed=0):
    batch = one_image(model, seed)
    return propose(model, batch, 0.9, 100), batch


@torch.no_grad()
def predicted(model, batch):
    """Boxes, labels and scores as the detector itself predicts them."""
    (sample,) = model.predict(batch['inputs'], batch['data_samples'], rescale=False)
    return sample.pred_instances


@pytest.mark.parametrize('name', DETRS)
def test_queries_are_those_that_the_detector_predicts(name):
    model = small(name)
    proposals, batch = proposed(model)
    scores = proposals.scores(proposals.logits(batch))
    found = predicted(model, batch)
    assert len(found) > 1
    assert found.scores.max() - found.scores.min() > 1e-3  # it has something to say
    for box, label, score in zip(found.bboxes, found.labels, found.scores):
        near = (proposals.boxes - box).abs().amax(1) < 1e-2
        assert ((scores[near, label] - score).abs() < 1e-5).any()


def test_the_background_of_a_softmax_is_its_last_class():
    model = small('detr')
    proposals, batch = proposed(model)
    logits = proposals.logits(batch)
    assert logits.shape == (20, 81)
    assert torch.allclose(proposals.scores(logits).sum(1), torch.ones(20))


def test_queries_of_a_sigmoid_never_show_background_without_a_threshold():
    proposals, batch = proposed(small('deformable'))
    logits = proposals.logits(batch)
    assert logits.shape == (20, 81)
    assert (logits[:, -1] == -torch.inf).all() and logits[:, :-1].isfinite().all()


@pytest.mark.parametrize('name', ['two-stage', 'dino'])
def test_queries_chosen_on_the_clean_image_stay_on_another_one(name):
    """The n-th query would be another object there."""
    model = small(name)
    proposals, _ = proposed(model)
    seen = []
    forward = model.forward_decoder

    def remembering(**inputs):
        seen.append(inputs['reference_points'])
        return forward(**inputs)

    model.forward_decoder = remembering
    other = one_image(model, seed=1)
    with torch.no_grad():
        proposals.logits(other)
        model.predict(other['inputs'], other['data_samples'], rescale=False)
    assert torch.equal(seen[0], proposals.queries['reference_points'])
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize('name', ['detr', 'dino', 'yolox', 'gfl'])
def test_the_wrong_class_gains_on_the_one_that_predictions_show(name):
    model = small(name) if name in DETRS else build(NAMES[name])
    opinionated(model.bbox_head)
    proposals, seen = proposed(model)
    shown = proposals.scores(proposals.logits(seen))[:, :80].argmax(1)
    batch = batch_of([(3, 64, 96)], (2,))
    batch['data_samples'][0].gt_instances.labels[:] = shown.mode().values
    result = run(DAG(steps=3, gamma=4.0, **OPEN), model, batch)
    losses = list(result.stats.losses.values())
    assert result.stats.max_delta > 0 and losses[-1] > losses[0]


@pytest.mark.parametrize('name', ['yolox', 'gfl', 'tood'])
def test_anchor_points_are_those_that_the_detector_predicts(name):
    """YOLOX has objectness, GFL distributions, TOOD boxes and scores already."""
    model = build(NAMES[name])
    opinionated(model.bbox_head)
    proposals, batch = proposed(model)
    scores = proposals.scores(proposals.logits(batch))[:, :-1]
    if name == 'yolox':  # objectness is no class: compare the order of labels
        model.bbox_head.forward = sure_of_objects(model.bbox_head.forward)
    model.bbox_head.test_cfg.score_thr = 1e-3
    found = predicted(model, batch)
    assert len(found) > 5
    for box, label, score in zip(found.bboxes, found.labels, found.scores):
        near = (proposals.boxes - box).abs().amax(1) < 1e-2
        assert ((scores[near, label] - score).abs() < 1e-4).any()


def sure_of_objects(forward):
    def sure(features):
        classes, boxes, objectness = forward(features)
        return classes, boxes, [torch.full_like(x, 100.0) for x in objectness]

    return sure


@pytest.mark.parametrize('head', ['retinanet', 'fcos'])
def test_dense_boxes_are_those_the_head_predicts(make_detector, head):
    """Anchor points contain the head's own detections, box and score."""
    model = make_detector(head, 'diffusion')
    proposals, batch = proposed(model)
    scores = proposals.scores(proposals.logits(batch))[:, :-1]
    found = predicted(model, batch)
    assert len(found) > 0
    for box, label in zip(found.bboxes[:5], found.labels[:5]):
        gap = (proposals.boxes - box).abs().max(1).values
        assert gap.min() < 1e-2
        assert scores[gap.argmin(), label] > model.test_cfg.score_thr


def test_all_in_one_output_is_taken_apart():
    """YOLOv3 has box, objectness and classes of each anchor point in one map."""
    model = build(YOLOV3)
    for conv in model.bbox_head.convs_pred:
        nn.init.normal_(conv.weight, std=1e-4)  # untrained, features are huge
    proposals, batch = proposed(model)
    logits = proposals.logits(batch)
    head = model.bbox_head
    with torch.no_grad():
        (maps,) = head(model.extract_feat(batch['inputs']))
        level = maps[0][0].clone()  # the coarsest, 85 channels for each of 3 anchors
    assert torch.equal(logits[1, :-1], level[85 + 5 : 2 * 85, 0, 0])
    expected = head.bbox_coder.decode(
        head.prior_generator.grid_priors([level.shape[-2:]] * 3, device='cpu')[0][:1],
        torch.cat([level[:2, 0, 0].sigmoid(), level[2:4, 0, 0]])[None],
        torch.tensor([[32]]),
    )
    assert torch.allclose(proposals.boxes[:1], expected, atol=1e-3)


def test_a_softmax_of_a_dense_head_fits_if_the_head_can_predict():
    """SSD of some versions of mmdet asks for a loss that it does not have."""
    model = build(SSD)
    if not hasattr(model.bbox_head, 'loss_cls'):
        with pytest.raises(NotApplicable, match='DAG attacks proposals'):
            proposed(model)
        model.bbox_head.loss_cls = nn.Identity()
    opinionated(model.bbox_head)
    proposals, batch = proposed(model)
    logits = proposals.logits(batch)
    assert logits.shape == (len(proposals.boxes), 81)
    assert torch.allclose(
        proposals.scores(logits).sum(1), torch.ones(len(logits)), atol=1e-5
    )


@pytest.mark.parametrize(
    'name',
    [
        'centernet/centernet_r18_8xb16-crop512-140e_coco',  # peaks of a heat map
        'sabl/sabl-retinanet_r50_fpn_1x_coco',  # scores times the box's confidence
    ],
)
def test_heads_that_predict_otherwise_are_refused(name):
    model = build(name)
    with pytest.raises(NotApplicable, match=f'{type(model).__name__} has .*use PGD'):
        proposed(model)


def test_heads_without_proposals_are_refused(make_detector):
    model = make_detector('fcos', 'resnet')
    del model.bbox_head.prior_generator
    with pytest.raises(ValueError, match='DAG attacks proposals.*use PGD'):
        DAG(steps=1)(model, batch_of())


def test_scores_that_are_not_those_of_the_classes_are_refused(make_detector):
    """A head that scales its scores behind the logits."""
    model = make_detector('retinanet', 'resnet')
    head, single = model.bbox_head, model.bbox_head._predict_by_feat_single

    def halved(*args, **kwargs):
        results = single(*args, **kwargs)
        results.scores = results.scores / 2
        return results

    head._predict_by_feat_single = halved
    with pytest.raises(NotApplicable, match='DAG attacks proposals'):
        DAG(steps=1)(model, batch_of())


def test_an_error_in_the_models_own_prediction_is_seen_as_that(make_detector):
    model = make_detector('retinanet', 'resnet')

    def broken(*args, **kwargs):
        raise RuntimeError('an operator that is not there')

    model.bbox_head.predict_by_feat = broken
    with pytest.raises(RuntimeError, match='an operator that is not there'):
        DAG(steps=1)(model, batch_of())


def test_an_rpn_of_several_stages_is_refused_and_a_missing_kernel_is_not(
    make_detector,
):
    assert CascadeRPNHead.forward is nn.Module.forward  # which is how it is known
    model, batch = make_detector('faster-rcnn', 'resnet'), batch_of()
    attack = DAG(eps=8, steps=1)

    def no_kernel(inputs):
        raise NotImplementedError('Could not run this operation on this device')

    extract_feat, model.extract_feat = model.extract_feat, no_kernel
    with pytest.raises(NotImplementedError, match='Could not run this operation'):
        attack(model, batch)
    model.extract_feat = extract_feat
    model.rpn_head.__class__ = type(
        'Staged', (type(model.rpn_head),), {'forward': nn.Module.forward}
    )
    with pytest.raises(NotApplicable, match='no single RoI head'):
        attack(model, batch)
