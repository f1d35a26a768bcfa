"""Detectors and classifiers behind a shield: tests, attacks, checkpoints, mistakes."""

import copy

import pytest
import torch
from classifiers import make_classifier, random_batch
from conftest import TINY_UNET, ask, batch_of, detector_config, run
from mmdet.registry import MODELS
from mmengine.runner import load_checkpoint, save_checkpoint

from mmdiff import DAG, PGD, PurifiedModel
from mmdiff.attacks import GradientBlocked, oracle_of
from mmdiff.attacks.probes.flags import probe_model

SHIELD = dict(type='mmdiff.OneStepDenoiser', model=TINY_UNET, timestep=100)


def shield(inner, num_samples=1, vote='mean', **kwargs):
    """An eval-mode model behind a shield; the prior's weights are always the same."""
    torch.manual_seed(0)
    purifier = {**SHIELD, **kwargs}
    model = PurifiedModel(inner, purifier, num_samples=num_samples, vote=vote)
    # An untrained prior predicts hardly any noise: give it an opinion.
    model.purifier.prior.unet.conv_out.weight *= 8
    return model.eval()


@pytest.fixture
def detector(make_detector):
    """An FCOS: its losses are a smooth function of the image, nearly."""
    return make_detector('fcos', 'resnet')


def batch(sizes=((3, 62, 90),)):
    return batch_of(sizes, (2,) * len(sizes))


def test_a_shield_is_before_the_models_own_preprocessing(detector):
    """Purified pixels, in BGR and 0..255, are what the bare model then gets."""
    model, data = shield(detector), batch(((3, 62, 90), (3, 64, 64)))
    before = copy.deepcopy(data)
    shielded = model.data_preprocessor(copy.deepcopy(data), False)
    purified = []
    for image in data['inputs']:
        x = image[None].float().flip(1) / 127.5 - 1
        purified.append((model.purifier(x)[0].flip(0) + 1) * 127.5)
    assert all(x.min() >= 0 and x.max() <= 255 for x in purified)
    data['inputs'] = purified
    expected = detector.data_preprocessor(data, False)
    assert torch.allclose(shielded['inputs'], expected['inputs'], atol=1e-4)
    shapes = [sample.batch_input_shape for sample in shielded['data_samples']]
    assert shapes == [(64, 96)] * 2  # padded after the shield, by its pad_size_divisor
    rgb = PurifiedModel(detector, SHIELD, channel_order='rgb')
    other = rgb.data_preprocessor(before, False)
    assert not torch.allclose(other['inputs'], expected['inputs'], atol=1e-2)


def test_predictions_and_losses_are_those_of_the_model_on_purified_images(detector):
    model, data = shield(detector), batch()
    (result,) = model.test_step(copy.deepcopy(data))
    (image,) = model.data_preprocessor.purify(data['inputs'])
    data['inputs'] = [image]
    (expected,) = detector.test_step(data)
    assert len(expected.pred_instances) > 0
    assert torch.allclose(
        result.pred_instances.scores, expected.pred_instances.scores, atol=1e-5
    )


def test_one_step_costs_one_pass_of_the_unet_and_nothing_of_the_model(
    detector, monkeypatch
):
    model, calls = shield(detector), []
    for name, module in (
        ('unet', model.purifier.prior.unet),
        ('model', detector.backbone),
    ):
        monkeypatch.setattr(
            module,
            'forward',
            lambda *a, name=name, forward=module.forward, **k: (
                calls.append(name) or forward(*a, **k)
            ),
        )
    model.test_step(batch())
    assert calls == ['unet', 'model']


def directional(question, x, along, step):
    """Slope along a direction: by the gradient, and by a difference."""
    (grad,), _ = question.gradients([x], 0, 0)
    ends = [question.losses([x + side * step * along], 0, 0).item() for side in (1, -1)]
    return (grad * along).sum().item(), (ends[0] - ends[1]) / (2 * step)


@pytest.mark.parametrize(
    'kwargs',
    [
        {},
        dict(noise='fresh'),
        dict(type='mmdiff.DiffPure', steps=2),
    ],
    ids=['one-step', 'fresh', 'diffpure'],
)
def test_the_gradient_of_a_shielded_detector_is_the_slope(detector, kwargs):
    """From pixels through shield, preprocessor, detector and loss."""
    model = shield(detector, **kwargs)
    question = ask(PGD(eps=8), model, batch())
    (x,) = question.group.pixels
    assert x.shape == (3, 62, 90)
    x = x.clamp(60, 200)
    generator = torch.Generator().manual_seed(0)
    along = torch.randn(x.shape, generator=generator)
    (grad,), _ = question.gradients([x], 0, 0)
    along = along + 3 * grad / grad.std()  # where the slope is not lost in rounding
    slope, difference = directional(question, x, along, 0.02)
    assert slope == pytest.approx(difference, rel=0.06)
    bpda = ask(PGD(eps=8), shield(detector, gradient='bpda', **kwargs), batch())
    identity, same = directional(bpda, x, along, 0.02)
    assert same == pytest.approx(difference, rel=1e-3)  # the same function
    assert abs(identity - difference) > 0.2 * difference  # another slope


def test_an_attack_sees_what_a_test_sees(detector):
    probe = probe_model(oracle_of(shield(detector)), batch())
    assert probe.fixed and probe.repeat_gap == 0
    assert probe.test_gap == probe.flag_gap == probe.input_gap == 0
    fresh = probe_model(oracle_of(shield(detector, noise='fresh')), batch())
    assert not fresh.fixed or fresh.repeat_gap == 0


def test_seeds_fix_fresh_noise_and_draws_differ(detector):
    model = shield(detector, noise='fresh')
    question = ask(PGD(eps=8), model, batch())
    pixels = question.group.pixels
    first = question.losses(pixels, 0, 0)
    assert torch.equal(first, question.losses(pixels, 0, 0))
    assert not torch.equal(first, question.losses(pixels, 0, 1))
    averaged = ask(PGD(eps=8, eot=4), model, batch()).losses(pixels, 0, 0)
    singles = [question.losses(pixels, 0, 0)]
    assert not torch.equal(averaged, singles[0])
    bare = ask(PGD(eps=8), shield(detector), batch())
    assert torch.equal(bare.losses(pixels, 0, 0), bare.losses(pixels, 0, 1))


def test_attacks_keep_their_promises_and_bpda_is_weaker(detector):
    """Only the image's own pixels change, by the budget; batch 1 or 2 is the same."""
    data = batch(((3, 62, 90), (3, 62, 90)))
    for sample, image in zip(data['data_samples'], data['inputs']):
        # The pipeline padded: the last 14 columns are no part of the image.
        sample.set_metainfo(dict(ori_shape=(62, 76)))
        image[:, :, 76:] = 114
    attack = PGD(eps=4, steps=3)
    model, bpda = shield(detector), shield(detector, gradient='bpda')
    result = run(attack, model, data)
    for adv, clean in zip(result.inputs, data['inputs']):
        delta = (adv - clean).abs()
        assert delta[:, :, 76:].max() == 0 and 3.9 < delta.max() <= 4 + 1e-4
        assert adv.min() >= 0 and adv.max() <= 255
    alone = {key: value[:1] for key, value in data.items()}
    assert run(attack, model, alone).losses[0] == pytest.approx(
        result.losses[0], rel=1e-4
    )
    start = ask(attack, model, data)
    clean = start.losses(start.group.pixels, 0, 0)
    weaker = run(attack, bpda, data)
    gains = [
        (torch.tensor(one.losses) - clean).sum().item() for one in (result, weaker)
    ]
    assert gains[0] > 1.2 * gains[1] > 0
    assert not any(p.grad is not None for p in model.parameters())


def test_two_stage_detectors_and_dag(make_detector):
    model, data = shield(make_detector('faster-rcnn', 'resnet')), batch()
    result = run(PGD(eps=4, steps=2), model, data)
    assert result.stats.changed == 1 and not result.stats.zero_grads
    bare = oracle_of(model)
    assert bare.proposals_move and bare.num_classes == 5
    run(DAG(steps=1), model, data)


def test_what_blocks_gradients_is_seen(detector, monkeypatch):
    model = shield(detector)
    predict = model.purifier.prior.predict_x0
    monkeypatch.setattr(
        model.purifier.prior, 'predict_x0', lambda *a: predict(*a).detach()
    )
    with pytest.raises(GradientBlocked):
        run(PGD(eps=4, steps=1), model, batch())


def test_of_a_semi_supervised_detector_the_part_that_predicts_is_behind_it():
    from test_other_models import soft_teacher

    inner = soft_teacher()
    model = shield(inner)
    oracle = oracle_of(model)
    assert oracle.model is inner.teacher and oracle.task == 'detection'
    probe = probe_model(oracle, batch())
    assert probe.test_gap == probe.input_gap == 0
    assert run(PGD(eps=4, steps=1), model, batch()).stats.changed == 1


# Classifiers.


def classifier():
    return make_classifier(num_classes=4)


def logits_of_oracle(model, data):
    oracle = oracle_of(model)
    group = oracle.gather(data)
    processed = oracle.preprocess(group.pixels, group.samples, group.frames)
    with torch.no_grad():
        return oracle.logits(processed)


@pytest.mark.parametrize('vote', ['mean', 'majority'])
def test_samples_vote(vote):
    inner, data = classifier(), random_batch(3, 4)
    model = shield(inner, num_samples=3, vote=vote, timestep=400)
    results = model.test_step(copy.deepcopy(data))
    shares = []
    for sample in range(3):
        images = model.data_preprocessor.purify(data['inputs'], sample)
        tensors = inner.data_preprocessor(dict(inputs=images), False)['inputs']
        shares.append(inner(tensors, mode='tensor').softmax(1))
    shares = torch.stack(shares)
    if vote == 'mean':
        expected = shares.mean(0)
    else:
        expected = torch.nn.functional.one_hot(shares.argmax(2), 4).float().mean(0)
    scores = torch.stack([result.pred_score for result in results])
    assert torch.allclose(scores, expected, atol=1e-5)
    labels = [result.pred_label.item() for result in results]
    assert all(score[label] == score.max() for score, label in zip(scores, labels))
    # An attack follows the mean.
    logits = logits_of_oracle(model, data)
    assert torch.allclose(logits.exp(), shares.mean(0), atol=1e-5)


def test_a_tie_of_votes_is_decided_by_the_mean():
    model = shield(classifier(), num_samples=2, vote='majority')
    shares = torch.tensor([[[0.5, 0.3, 0.1, 0.1]], [[0.1, 0.0, 0.9, 0.0]]])
    mean = shares.mean(0).log()
    (sample,) = model._elect(shares.log(), mean, None)
    assert sample.pred_label.item() == 2 and sample.pred_score.tolist()[0] == 0.5


@pytest.mark.parametrize('num_samples', [1, 3])
def test_the_gradient_of_a_shielded_classifier_is_the_slope(num_samples):
    model, data = shield(classifier(), num_samples=num_samples), random_batch(1, 4)
    question = ask(PGD(eps=8, objective='ce'), model, data)
    assert question.oracle.task == 'classification'
    x = question.group.pixels[0].clamp(60, 200)
    (grad,), _ = question.gradients([x], 0, 0)
    slope, difference = directional(question, x, grad / grad.std(), 0.05)
    assert slope == pytest.approx(difference, rel=0.02) and slope > 0
    assert run(PGD(eps=4, steps=2), model, data).stats.changed == 1


def test_a_runner_puts_the_preprocessor_of_a_config_behind_the_shield():
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope('mmpretrain'):
        inner = dict(
            type='ImageClassifier',
            backbone=dict(type='TwoConvolutions'),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=4, in_channels=64),
        )
        model = PurifiedModel(
            inner, SHIELD, data_preprocessor=dict(mean=[1.0, 2.0, 3.0], std=[4.0] * 3)
        )
    assert model.model.data_preprocessor.mean.flatten().tolist() == [1, 2, 3]


# Checkpoints.


def test_checkpoints_are_those_of_the_model_without_a_shield(detector, tmp_path):
    model = shield(detector)
    state = model.state_dict()
    assert state.keys() == detector.state_dict().keys()
    file = str(tmp_path / 'bare.pth')
    save_checkpoint(dict(state_dict=detector.state_dict()), file)
    torch.manual_seed(1)
    fresh = shield(MODELS.build(detector_config('fcos', 'resnet')))
    prior = {k: v.clone() for k, v in fresh.purifier.state_dict().items()}
    assert not torch.equal(
        fresh.model.backbone.conv1.weight, detector.backbone.conv1.weight
    )
    load_checkpoint(fresh, file, strict=True)
    for name, value in detector.state_dict().items():
        assert torch.equal(fresh.model.state_dict()[name], value)
    assert all(torch.equal(v, prior[k]) for k, v in fresh.purifier.state_dict().items())
    # And back: what a shielded model saves is loaded without a shield.
    save_checkpoint(dict(state_dict=fresh.state_dict()), file)
    load_checkpoint(detector, file, strict=True)
    fresh.load_state_dict(state)  # torch's own loading, in strict mode


def test_names_that_do_not_fit_are_told_as_the_checkpoint_has_them(detector):
    model, state = shield(detector), detector.state_dict()
    del state['backbone.conv1.weight']
    state['odd'] = torch.zeros(1)
    result = model.load_state_dict(state, strict=False)
    assert result.missing_keys == ['backbone.conv1.weight']
    assert [key.removeprefix('model.') for key in result.unexpected_keys] == ['odd']


def test_a_shield_stays_frozen_and_in_eval_mode(detector):
    model = shield(detector).train()
    assert model.model.training
    assert not any(module.training for module in model.purifier.modules())
    assert not any(p.requires_grad for p in model.purifier.parameters())
    data = model.data_preprocessor(batch(), True)
    sum(v for v in model(**data, mode='loss').values()).backward()
    assert any(p.grad is not None for p in model.model.parameters())


# Mistakes.


@pytest.mark.parametrize(
    'kwargs, words',
    [
        (dict(num_samples=0), 'num_samples=0 must be a whole number of at least 1'),
        (dict(num_samples=4), 'vote on one class of an image, which FCOS does not tel'),
        (dict(vote='loudest'), "vote='loudest' is unknown; choose one of"),
        (dict(channel_order='hsv'), "channel_order='hsv' is unknown; choose one of"),
        (
            dict(purifier=dict(SHIELD, gradient='none')),
            "gradient='none' is unknown; choose one of",
        ),
        (dict(purifier=dict(SHIELD, timestep=5000)), 'timestep=5000 is out of range'),
    ],
)
def test_bad_arguments_are_one_sentence(detector, kwargs, words):
    with pytest.raises(ValueError, match=words) as caught:
        PurifiedModel(**{'model': detector, 'purifier': SHIELD, **kwargs})
    assert '\n' not in str(caught.value)


def test_models_without_one_input_are_refused(detector):
    tta = dict(type='DetTTAModel', module=detector_config('fcos', 'resnet'))
    with pytest.raises(ValueError, match='DetTTAModel augments images at test time'):
        PurifiedModel(tta, SHIELD)
    with pytest.raises(TypeError, match='Linear has no data_preprocessor'):
        PurifiedModel(torch.nn.Linear(1, 1), SHIELD)


def test_a_shield_around_a_shield_is_refused(detector):
    """A report would name the gradient of the outer one alone."""
    with pytest.raises(ValueError, match='behind a shield already'):
        PurifiedModel(PurifiedModel(detector, SHIELD), SHIELD)


def test_an_image_that_the_stride_cannot_pad_is_refused(detector):
    with pytest.raises(ValueError, match='image of 2x64 is too small .* stride 4'):
        shield(detector).test_step(batch_of([(3, 2, 64)], (0,)))
