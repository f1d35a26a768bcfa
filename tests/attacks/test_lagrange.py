"""The objective less the denoising error: values, slopes, and what has no prior."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from classifiers import logits_of, make_classifier, random_batch
from conftest import TINY_UNET, ask, batch_of, run

from mmdiff import PGD, DiffusionClassifier, PurifiedModel
from mmdiff.attacks import (
    APGD,
    MIM,
    GradientBlocked,
    NotApplicable,
    Square,
    StAdv,
    oracle_of,
)
from mmdiff.attacks.objectives import objective_name
from mmdiff.attacks.probes import probe_objective
from mmdiff.diffusion import DiffusionModel, choose_levels, denoising_errors
from mmdiff.diffusion.noise import fixed_noise

CLASSES = dict(
    type='UNet2DModel',
    block_out_channels=(4, 8),
    down_block_types=('DownBlock2D',) * 2,
    up_block_types=('UpBlock2D',) * 2,
    sample_size=16,
    norm_num_groups=2,
    num_class_embeds=3,
)


MAXIMISATION = dict(
    type='mmdiff.LikelihoodMaximization', model=TINY_UNET, steps=2, step_size=0.02
)


def shield(inner, num_samples=1, purifier=MAXIMISATION):
    """A model behind likelihood maximisation by a prior with opinions."""
    torch.manual_seed(0)
    model = PurifiedModel(inner, purifier, num_samples=num_samples)
    model.purifier.prior.unet.conv_out.weight *= 8
    return model.eval()


def classifier():
    return make_classifier(num_classes=4)


def lagrange(**settings):
    settings = {'num_levels': 3, 'multiplier': 20.0, **settings}
    return PGD(eps=8, steps=3, objective=dict(type='Lagrange', **settings))


def errors_of(prior, images, count=3, seed=0):
    """Denoising errors of pixels in BGR, from the formula, (N,)."""
    x = torch.stack(list(images)).float().flip(1) / 127.5 - 1
    times = torch.tensor(choose_levels(prior, count).times)
    noise = [fixed_noise(tuple(x.shape[1:]), (seed << 16) + k) for k in range(count)]
    return denoising_errors(prior, x, times, torch.cat(noise)).mean(1)


def values(attack, model, data):
    question = ask(attack, model, data)
    return question.losses(question.group.pixels, 0, 0)


@pytest.mark.parametrize('seed', [0, 3])
def test_it_is_the_inner_objective_less_the_error_of_the_image(seed):
    model, data = shield(classifier()), random_batch(2, 4)
    inner = values(PGD(eps=8, objective='ce'), model, data)
    error = errors_of(model.purifier.prior, data['inputs'], seed=seed)
    assert error.min() > 0.1
    for multiplier in (20.0, 0.5):
        attack = lagrange(inner='ce', multiplier=multiplier, noise_seed=seed)
        found = values(attack, model, data)
        assert torch.allclose(found, inner - multiplier * error, rtol=1e-5, atol=1e-5)


def test_levels_may_be_named():
    model, data = shield(classifier()), random_batch(2, 4)
    times = list(choose_levels(model.purifier.prior, 3).times)
    named, counted = lagrange(times=times, num_levels=7), lagrange()
    assert torch.equal(values(named, model, data), values(counted, model, data))


@pytest.mark.parametrize('num_samples', [1, 2])
def test_the_model_may_be_asked_bare(num_samples):
    inner, data = classifier(), random_batch(2, 4)
    model = shield(inner, num_samples)
    labels = torch.tensor([0, 1])
    bare = F.cross_entropy(logits_of(inner, data['inputs']), labels, reduction='none')
    error = errors_of(model.purifier.prior, data['inputs'])
    found = values(lagrange(through_shield=False), model, data)
    assert torch.allclose(found, bare - 20 * error, rtol=1e-5, atol=1e-5)
    through = values(lagrange(), model, data)
    assert (through - found).abs().min() > 1e-5
    result = run(lagrange(through_shield=False), model, data)
    assert result.stats.changed == 2 and not result.stats.zero_grads


def directional(question, x, step):
    """Slope along the gradient: by it, and by a central difference."""
    (grad,), _ = question.gradients([x], 0, 0)
    along = grad / grad.std()
    ends = [question.losses([x + side * step * along], 0, 0).item() for side in (1, -1)]
    return (grad * along).sum().item(), (ends[0] - ends[1]) / (2 * step)


@pytest.mark.parametrize('through_shield', [True, False])
@pytest.mark.parametrize('multiplier', [0.01, 20.0])
def test_the_gradient_is_the_slope(through_shield, multiplier):
    model, data = shield(classifier()), random_batch(1, 4)
    attack = lagrange(multiplier=multiplier, through_shield=through_shield)
    question = ask(attack, model, data)
    x = question.group.pixels[0].clamp(60, 200)
    slope, difference = directional(question, x, 0.05)
    assert slope == pytest.approx(difference, rel=0.02) and slope > 0


def test_probes_find_its_gradient_right():
    model, data = shield(classifier()), random_batch(2, 4)
    attack = lagrange()
    probe = probe_objective(oracle_of(model), data, attack)
    assert probe.objective == objective_name(attack.objective)
    assert probe.best_agreement > 0.99 and not probe.blocked
    assert probe.repeat_gap == 0 and probe.grad_gap < 1e-4


def test_a_blocked_inner_gradient_is_no_gradient(monkeypatch):
    """The penalty alone would be followed, and the attack would look alive."""
    model, data = shield(classifier()), random_batch(1, 4)
    forward = model.model.forward
    monkeypatch.setattr(
        model.model, 'forward', lambda *a, **k: forward(*a, **k).detach()
    )
    with pytest.raises(GradientBlocked):
        run(lagrange(), model, data)


@pytest.mark.parametrize('kind', [APGD, MIM, Square, StAdv])
def test_every_attack_with_an_objective_takes_it(kind):
    """What they report is the objective of the images that they hand on."""
    model, data = shield(classifier()), random_batch(2, 4)
    attack = kind(steps=3, objective=lagrange(multiplier=100.0).objective)
    result = run(attack, model, data)
    assert result.stats.changed == 2
    asked = values(attack, model, {**data, 'inputs': result.inputs})
    assert torch.allclose(torch.tensor(result.losses), asked, rtol=1e-5)


def test_attacked_images_stay_likelier():
    model, data = shield(classifier()), random_batch(3, 4)
    prior = model.purifier.prior
    left = {
        multiplier: errors_of(prior, run(attack, model, data).inputs).sum().item()
        for multiplier, attack in (
            (0, PGD(eps=8, steps=3)),
            (1, lagrange(multiplier=1)),
            (1000, lagrange(multiplier=1000)),
        )
    }
    assert left[1000] < left[1] <= left[0] + 1e-4
    assert left[1000] < errors_of(prior, data['inputs']).sum().item() < left[0] + 1


def test_detectors_of_one_and_of_two_stages(make_detector):
    """Images of any size are measured as the shield sees them, each by itself."""
    data = batch_of(((3, 32, 44), (3, 32, 40)), (1, 1))
    one_step = dict(type='mmdiff.OneStepDenoiser', model=TINY_UNET, timestep=50)
    for head, inner in (('fcos', 'detections'), ('faster-rcnn', 'total')):
        model = shield(make_detector(head, 'resnet'), purifier=one_step)
        attack = replace(lagrange(inner=inner), steps=1)
        found = values(attack, model, copy.deepcopy(data))
        plain = values(replace(attack, objective=inner), model, copy.deepcopy(data))
        prior, images = model.purifier.prior, data['inputs']
        errors = torch.cat([errors_of(prior, [image]) for image in images])
        assert torch.allclose((plain - found) / 20, errors, rtol=1e-3)
        assert run(attack, model, data).stats.changed == 2


def test_of_a_diffusion_classifier_the_class_that_explains_best_counts():
    torch.manual_seed(0)
    model = DiffusionClassifier(CLASSES, levels=dict(num_levels=2)).eval()
    model.prior.unet.conv_out.weight *= 8
    data = random_batch(2, 3, size=16)
    error = model.denoising_error(num_levels=3, times=None, noise_seed=5)
    x = data['inputs'].float().flip(1) / 127.5 - 1
    times = torch.tensor(choose_levels(model.prior, 3).times)
    noise = torch.cat([fixed_noise((3, 16, 16), (5 << 16) + k) for k in range(3)])
    by_class = [
        denoising_errors(model.prior, x, times, noise, torch.full((2,), label)).mean(1)
        for label in range(3)
    ]
    expected = torch.stack(by_class).amin(0)
    assert torch.allclose(error(x), expected, rtol=1e-5)
    plain = values(PGD(eps=8), model, data)
    found = values(lagrange(noise_seed=5), model, data)
    assert torch.allclose(found, plain - 20 * expected, rtol=1e-5, atol=1e-5)
    assert run(lagrange(), model, data).stats.changed == 2


def test_a_frozen_backbone_has_its_prior_loaded_whole(make_detector, tmp_path):
    torch.manual_seed(0)
    prior = DiffusionModel.from_pretrained(TINY_UNET)
    prior.save_pretrained(tmp_path)
    model = make_detector('fcos', model=str(tmp_path))
    keys = list(model.state_dict())
    data = batch_of(((3, 64, 96),), (2,))
    penalty = values(PGD(eps=8), model, copy.deepcopy(data)) - values(
        lagrange(), model, data
    )
    inputs = model.data_preprocessor(copy.deepcopy(data), False)['inputs']
    expected = 20 * model.backbone.denoising_error(3, None, 0)(inputs)
    assert torch.allclose(penalty, expected, rtol=1e-4) and penalty.min() > 1
    assert list(model.state_dict()) == keys  # checkpoints are what they were


# Mistakes.


@pytest.mark.parametrize(
    'settings, words',
    [
        (dict(multiplier=0), 'multiplier=0 must be a number above 0'),
        (dict(multiplier=-2.0), 'multiplier=-2.0 must be a number above 0'),
        (dict(multiplier='big'), "multiplier='big' must be a number above 0"),
        (dict(multiplier=float('inf')), 'multiplier=inf must be a number above 0'),
        (dict(num_levels=0), 'num_levels=0 must be a whole number of at least 1'),
        (dict(noise_seed=-1), 'noise_seed=-1 must be a whole number of at least 0'),
        (dict(through_shield=1), 'through_shield=1 must be True or False'),
        (dict(times=5), 'times=5 must be a list of timesteps or sigmas'),
        (dict(inner='lagrange'), "inner='lagrange' must be the name of an objective"),
        (dict(inner='loudest'), "objective='loudest' is unknown; choose one of"),
    ],
)
def test_bad_settings_are_one_sentence(settings, words):
    with pytest.raises(ValueError, match=words) as caught:
        lagrange(**settings)
    assert '\n' not in str(caught.value)


def refused(attack, model, words):
    with pytest.raises((NotApplicable, ValueError), match=words) as caught:
        attack.check_applies(oracle_of(model))
    assert '\n' not in str(caught.value)


def test_models_without_a_prior_are_refused_before_any_work(make_detector):
    named = PGD(eps=8, objective='lagrange')
    words = 'needs a diffusion prior, and {} has none: put a shield'
    refused(named, classifier(), words.format('ImageClassifier'))
    refused(named, make_detector('fcos', 'resnet'), words.format('FCOS'))
    trained = make_detector('fcos', frozen=False)
    refused(named, trained, r'trained along \(frozen=False\): put a shield')
    refused(named, make_detector('fcos'), 'has random weights and kept those up to')


def test_what_a_model_does_not_have_is_refused():
    model = shield(classifier())
    refused(lagrange(inner='vanishing'), model, "'vanishing' is none of classification")
    refused(lagrange(times=[5000]), model, '5000')
    bare = DiffusionClassifier(CLASSES, levels=dict(num_levels=2)).eval()
    refused(lagrange(through_shield=False), bare, 'leave through_shield out')


def test_its_name_is_that_of_its_own_settings():
    assert objective_name('lagrange') == 'lagrange'
    settings = dict(type='mmdiff.Lagrange', inner='cw', multiplier=5)
    assert objective_name(settings) == 'Lagrange_innercw_multiplier5'
    model, data = shield(classifier()), random_batch(1, 4)
    named = values(PGD(eps=8, objective='lagrange'), model, data)
    spelled = dict(type='Lagrange', inner='total', multiplier=1.0, num_levels=10)
    assert torch.equal(named, values(PGD(eps=8, objective=spelled), model, data))
