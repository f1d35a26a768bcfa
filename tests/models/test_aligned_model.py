"""Alignment with a frozen prior: the formula, the sides, and what is left of it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from attacks.classifiers import make_classifier, random_batch
from conftest import TINY_UNET, batch_of, detector_config
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from torch import nn

from mmdiff import AlignedModel, RepresentationAlignmentLoss
from mmdiff.engine.feature_cache import FeatureCache
from mmdiff.engine.hooks import FeatureCacheHook
from mmdiff.models.wrappers.positions import box_cells, image_cells

PRIOR = dict(model=TINY_UNET, timestep=10, out_indices=('mid',))  # 8 channels, stride 4
ALIGNMENT = dict(in_channels=64, hidden_channels=16)
ATTACK = dict(type='mmdiff.PGD', eps=8, steps=1)
BOTH = dict(type='mmdiff.MadryLoss', clean_weight=1.0)


def adversarial(model, loss=None):
    return dict(type='mmdiff.AdversarialModel', model=model, attack=ATTACK, loss=loss)


def classifier():
    return make_classifier(num_classes=3).train()


def aligned(model=None, prior=PRIOR, alignment=ALIGNMENT, **kwargs):
    torch.manual_seed(0)
    model = classifier() if model is None else model
    return AlignedModel(model, copy.deepcopy(prior), alignment, **kwargs).train()


def batch():
    return random_batch(3, num_classes=3, size=32)


def test_the_loss_is_its_formula_and_trains_model_and_projector():
    model = aligned(alignment=dict(ALIGNMENT, loss_weight=0.5), side='clean')
    data = batch()
    bare, projector = model.model, model.alignment.projector
    kinds = [type(layer) for layer in projector]
    assert kinds == [nn.Linear, nn.SiLU, nn.Linear, nn.SiLU, nn.Linear]
    x = data['inputs'].float()
    h = bare.backbone(bare.data_preprocessor(dict(inputs=x))['inputs'])[0].mean((2, 3))
    (r,) = model.prior(x.flip(1) / 127.5 - 1)  # RGB
    cosines = F.cosine_similarity(projector(h), r.mean((2, 3)))
    losses = model.forward(**data, mode='loss')
    torch.testing.assert_close(losses['loss_alignment'], 0.5 * (1 - cosines).mean())
    torch.testing.assert_close(losses['alignment_cos'], cosines.mean().detach())
    assert not losses['alignment_cos'].requires_grad
    losses['loss_alignment'].backward()
    assert bare.backbone.layers[0].weight.grad.any() and projector[0].weight.grad.any()
    assert all(p.grad is None for p in model.prior.parameters())


def test_centred_targets_are_those_less_their_mean_over_the_batches_of_training():
    torch.manual_seed(0)
    loss = RepresentationAlignmentLoss(8, 4, hidden_channels=16, centred=True)
    h, targets = torch.randn(6, 8), 5 + torch.randn(3, 6, 4, 2, 2)
    for i, r in enumerate(targets):
        told = loss(h, r)
        mean = targets[: i + 1].mean((0, 1, 3, 4))
        cosines = F.cosine_similarity(loss.projector(h), r.mean((2, 3)) - mean)
        torch.testing.assert_close(told['alignment_cos'], cosines.mean().detach())
    kept = loss.state_dict()
    torch.testing.assert_close(kept['mean'], mean)
    # It learns in training alone, and of no more than about the last hundred batches.
    before = loss.mean.clone()
    loss.eval()(h, targets[0])
    assert torch.equal(loss.mean, before)
    loss.train().steps.fill_(10_000)
    loss(h, targets[0] + 100)
    expected = mean + 0.01 * (100 + targets[0].mean((0, 2, 3)) - mean)
    torch.testing.assert_close(loss.mean, expected)
    assert not RepresentationAlignmentLoss(8, 4).state_dict().keys() - {
        name for name in kept if name.startswith('projector')
    }


def test_sides_are_those_of_the_passes_and_r_is_of_the_clean_image():
    bare, data = classifier(), batch()
    seen = {}
    for side in ('clean', 'adversarial', 'both'):
        model = aligned(adversarial(bare, BOTH), side=side)
        losses = model.forward(**data, mode='loss')
        seen[side] = losses['loss_alignment'].item()
    mean = (seen['clean'] + seen['adversarial']) / 2
    assert seen['both'] == pytest.approx(mean, rel=1e-3)
    assert seen['clean'] != seen['adversarial']


def test_the_prior_is_in_no_checkpoint_optimizer_or_average():
    bare = classifier()
    model = aligned(adversarial(bare))
    extra = set(model.state_dict()) - set(bare.state_dict())
    assert {name.split('.')[0] for name in extra} == {'alignment'}
    modules = [m for m in model.modules() if type(m).__name__ == 'DiffusionUNet']
    assert not modules and not model.prior.training
    average = ExponentialMovingAverage(model)
    assert average.module.prior is model.prior
    assert len(list(average.parameters())) == len(list(model.parameters()))
    again = aligned(adversarial(classifier()))
    again.load_state_dict(model.state_dict())  # strict
    before = [p.clone() for p in model.prior.parameters()]
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    model.train_step(batch(), optimizer)
    assert all(p.equal(q) for p, q in zip(model.prior.parameters(), before))
    # It moves with the model, though.
    assert next(model.double().prior.parameters()).dtype == torch.float64


def test_a_deployed_model_neither_projects_nor_asks_the_prior():
    bare = classifier()
    model = aligned(adversarial(bare)).eval()
    calls = []
    for part in (model.prior, model.alignment):
        part.register_forward_hook(lambda *args: calls.append(args))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        scores = [sample.pred_score for sample in model.test_step(batch())]
        expected = [sample.pred_score for sample in bare.eval().test_step(batch())]
    assert not calls and torch.equal(torch.stack(scores), torch.stack(expected))


def test_dense_maps_are_compared_where_boxes_are():
    torch.manual_seed(0)
    loss = RepresentationAlignmentLoss(4, 2, 2.0, num_layers=1, dense=True)
    features, target = torch.randn(2, 4, 3, 3), torch.randn(2, 2, 3, 3)
    weights = torch.zeros(2, 1, 3, 3)
    weights[0, 0, 1, 2] = weights[0, 0, 0, 0] = 1  # none in the second image
    z = loss.projector(features.movedim(1, -1)).movedim(-1, 1)
    cosines = F.cosine_similarity(z, target, 1)
    expected = 2 * (1 - (cosines[0, 1, 2] + cosines[0, 0, 0]) / 2)
    out = loss(features, target, weights)
    torch.testing.assert_close(out['loss_alignment'], expected)
    assert loss(features, target, 0 * weights)['loss_alignment'] == 0
    # A target of another size is resampled over the same canvas.
    coarse = torch.randn(2, 2, 1, 1)
    wide = coarse.expand(2, 2, 3, 3)
    first, second = (loss(features, t)['loss_alignment'] for t in (coarse, wide))
    torch.testing.assert_close(first, second)


def test_cells_of_boxes_and_of_images():
    (sample,) = batch_of(num_items=(2,))['data_samples']
    sample.gt_instances.bboxes = torch.tensor([[0.0, 0, 8, 8], [30, 30, 34, 31]])
    cells = box_cells([sample], (64, 64), (8, 8))[0]
    expected = torch.zeros(8, 8)
    expected[0, 0] = expected[3, 3] = expected[3, 4] = 1
    assert cells.equal(expected)
    assert image_cells([(32, 64)], (64, 64), (4, 4)).sum() == 8


@pytest.mark.parametrize('region', ['image', 'boxes'])
def test_a_detector_is_aligned_densely_in_its_neck(region):
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = aligned(
            adversarial(detector_config('fcos', 'resnet')),
            alignment=dict(in_channels=16, hidden_channels=16, dense=True),
            layer='neck',
            level=0,
            region=region,
        )
    data = batch_of([(3, 64, 96), (3, 60, 64)], (2, 1))
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-3))
    first = model.train_step(data, optimizer)
    for _ in range(4):
        last = model.train_step(data, optimizer)
    assert last['alignment_cos'] > first['alignment_cos']


def test_the_prior_may_see_smaller_images():
    model = aligned(side='clean', prior_scale=0.4)
    sizes = []
    model.prior.register_forward_pre_hook(lambda m, args: sizes.append(args[0].shape))
    model.forward(**batch(), mode='loss')
    assert sizes == [(3, 3, 12, 12)]  # 12.8, which the stride 4 does not divide


def test_replays_ask_the_prior_once():
    loss = dict(type='mmdiff.FreeATLoss', replays=3)
    model = aligned(adversarial(classifier(), loss))
    calls = []
    model.prior.register_forward_hook(lambda *args: calls.append(1))
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-3))
    for count in (1, 2):
        model.train_step(batch(), optimizer)
        assert len(calls) == count and model._target is None


def test_the_feature_cache_answers_for_the_prior(tmp_path):
    model = aligned(adversarial(classifier()))

    class Runner:
        pass

    Runner.model = model
    hook = FeatureCacheHook(tmp_path, flips=False)
    hook.before_train(Runner)
    hook.before_train_iter(Runner, 0, batch())
    cache = model.prior.feature_cache
    assert isinstance(cache, FeatureCache)
    for _ in range(2):
        model.forward(**batch(), mode='loss')
    assert (cache.hits, cache.misses) == (3, 3)


def refused(match, *args, **kwargs):
    with pytest.raises(ValueError, match=match):
        aligned(*args, **kwargs)


def test_what_cannot_be_aligned_is_refused_before_training():
    wide = dict(ALIGNMENT, out_channels=3)
    refused('out_channels=3 and the tap', side='clean', alignment=wide)
    refused('lambda.*=-1 must', side='clean', alignment=dict(ALIGNMENT, loss_weight=-1))
    refused('is frozen: it is in no', side='clean', prior=dict(PRIOR, frozen=False))
    two = dict(PRIOR, out_indices=('mid', 'up.0'))
    refused('name one in out_indices', side='clean', prior=two)
    refused("side='all' must be one of", side='all')
    refused("region='box' must be one of", region='box')
    refused('No pass is made on adversarial images')
    refused('No pass is made on clean', adversarial(classifier()), side='both')
    refused("layer='trunk' is no module .* backbone", side='clean', layer='trunk')
    refused('prior_scale=0 must', side='clean', prior_scale=0)
    refused('num_layers=0', side='clean', alignment=dict(ALIGNMENT, num_layers=0))


def test_what_training_finds_out_is_said_in_a_sentence():
    def train(size=32, **kwargs):
        model = aligned(side='clean', **kwargs)
        model.forward(**random_batch(2, num_classes=3, size=size), mode='loss')

    with pytest.raises(ValueError, match='gives 64 .* takes 32; set in_channels=64'):
        train(alignment=dict(ALIGNMENT, in_channels=32))
    with pytest.raises(ValueError, match='stride 4 and an image is 2x2'):
        train(size=2)
    with pytest.raises(ValueError, match='pad_size_divisor=4'):
        train(size=30)
    with pytest.raises(ValueError, match='level=3 is out of range'):
        train(level=3)
    with pytest.raises(ValueError, match="have no gt_instances; set region='image'"):
        train(region='boxes')
    with pytest.raises(ValueError, match='compares maps'):
        train(layer='neck', alignment=dict(ALIGNMENT, dense=True))
