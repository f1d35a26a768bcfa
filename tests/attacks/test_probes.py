"""Probes on small models, sound and with one thing broken."""

import copy
from dataclasses import dataclass

import pytest
import torch
from conftest import NUM_CLASSES
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmdiff import OBJECTIVES
from mmdiff.attacks import PGD, DetectionObjective, oracle_of
from mmdiff.attacks.probes import (
    ModelProbe,
    ObjectiveProbe,
    Probes,
    probe_blind_pixels,
    probe_model,
    probe_noise,
    probe_objective,
    probe_truth,
)
from mmdiff.evaluation.checks import check_probes


@pytest.fixture
def batch():
    """One image of 64 px with three objects, whose file has half the size."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(60, 200, (3, 64, 64), generator=generator)
    meta = dict(
        img_id=0, img_shape=(64, 64), ori_shape=(32, 32), scale_factor=(2.0, 2.0)
    )
    sample = DetDataSample(metainfo=meta)
    boxes = torch.tensor([[2, 2, 14, 12], [16, 3, 30, 20], [5, 15, 20, 31]])
    sample.gt_instances = InstanceData(
        bboxes=boxes.float(), labels=torch.arange(3) % NUM_CLASSES
    )
    return dict(inputs=[image], data_samples=[sample])


@pytest.fixture
def detector(make_detector):
    return make_detector('fcos', 'resnet')


def ask(model, batch, objective='total'):
    """All answers about a model, and the codes of its flags."""
    oracle = oracle_of(model)
    probe = probe_model(oracle, batch)
    probe_truth(oracle, batch, probe)
    gradient = probe_objective(oracle, batch, PGD(eps=4, objective=objective))
    flags = check_probes(Probes(probe, [gradient]), objective)
    return probe, gradient, {flag.code: flag.text for flag in flags}


def through_neck(model, change):
    """Let the features of the neck go through a function."""
    forward = model.neck.forward
    model.neck.forward = lambda x: tuple(change(k, f) for k, f in enumerate(forward(x)))


def test_a_sound_model_is_not_flagged_and_stays_as_it_was(detector, batch):
    before = copy.deepcopy(detector.state_dict())
    keys = {name: set(vars(module)) for name, module in detector.named_modules()}
    probe, gradient, flags = ask(detector, batch)
    assert flags == {}
    assert gradient.best_agreement > 0.97 and min(gradient.parts.values()) > 0.97
    assert {'feature map 0', 'feature map 4', 'bbox_head output 2'} <= set(
        gradient.parts
    )
    assert (probe.grad_gap, probe.flag_gap, probe.test_gap) == (0, 0, 0)
    assert (probe.objects, probe.objects_handed, probe.objects_ignored) == (3, 3, 0)
    assert all(torch.equal(v, before[k]) for k, v in detector.state_dict().items())
    assert {name: set(vars(m)) for name, m in detector.named_modules()} == keys
    assert not any(module._forward_hooks for module in detector.modules())


@pytest.mark.parametrize('level', range(5))
def test_any_level_that_is_cut_is_named(detector, batch, level):
    through_neck(detector, lambda k, x: x.detach() if k == level else x)
    _, gradient, flags = ask(detector, batch)
    assert set(flags) == {'gradient_wrong'}
    assert f'that of feature map {level}' in flags['gradient_wrong']
    assert gradient.parts[f'feature map {level}'] == 0


def test_a_gradient_of_the_wrong_sign_is_flagged(detector, batch):
    def reversed_(k, x):
        return 2 * x.detach() - x if k == 1 else x

    through_neck(detector, reversed_)
    _, gradient, flags = ask(detector, batch)
    assert set(flags) == {'gradient_wrong'}
    assert gradient.parts['feature map 1'] < -0.97


def test_a_model_that_answers_otherwise_with_gradients_on_is_flagged(detector, batch):
    through_neck(detector, lambda k, x: x / 2 if torch.is_grad_enabled() else x)
    _, _, flags = ask(detector, batch)
    assert 'otherwise while gradients are on' in flags['other_with_gradients']


def test_a_loss_that_is_another_with_gradients_on_is_flagged(detector, batch):
    loss = detector.loss

    def other(inputs, samples):
        factor = 0.5 if inputs.requires_grad else 1
        losses = loss(inputs, samples)
        return {name: factor * value for name, value in losses.items()}

    detector.loss = other
    _, gradient, flags = ask(detector, batch)
    assert "objective 'total' differs by 0.5" in flags['other_with_gradients']


def test_a_model_that_answers_by_its_flag_is_flagged(detector, batch):
    through_neck(detector, lambda k, x: x / 2 if detector.training else x)
    _, _, flags = ask(detector, batch)
    assert set(flags) == {'other_under_attack'}
    assert 'with the flags that losses need' in flags['other_under_attack']


def test_what_only_tests_go_through_is_flagged(detector, batch):
    predict = detector.predict
    detector.predict = lambda x, *args, **kwargs: predict(x / 2, *args, **kwargs)
    _, _, flags = ask(detector, batch)
    assert 'differ from those of a test' in flags['other_under_attack']


def test_noise_is_fixed_by_seeds_or_flagged(detector, batch):
    through_neck(detector, lambda k, x: x + 0.1 * torch.randn_like(x))
    probe, _, flags = ask(detector, batch)
    assert flags == {} and not probe.fixed
    generator = torch.Generator().manual_seed(0)
    through_neck(
        detector, lambda k, x: x + 0.1 * torch.randn(x.shape, generator=generator)
    )
    assert 'noise_without_seed' in ask(detector, batch)[2]


def test_a_loss_that_ignores_objects_is_flagged(detector, batch):
    loss = detector.loss

    def half(inputs, samples):
        for sample in samples:
            sample.gt_instances = sample.gt_instances[:1]
        return loss(inputs, samples)

    detector.loss = half
    _, _, flags = ask(detector, batch)
    assert set(flags) == {'objects_ignored'}
    assert 'ignores 2 of 3 objects' in flags['objects_ignored']


def test_truth_that_is_handed_over_elsewhere_is_flagged(detector, batch):
    oracle, probe = oracle_of(detector), ModelProbe()
    place = oracle.at_input_scale

    def moved(sample):
        sample = place(sample)
        sample.gt_instances.bboxes = sample.gt_instances.bboxes + 10
        return sample

    oracle.at_input_scale = moved
    probe_truth(oracle, batch, probe)
    (flag,) = check_probes(Probes(probe), 'total')
    assert (flag.code, probe.objects_misplaced) == ('other_truth', 3)


def test_rounded_pixels_leave_no_gradient_to_believe(detector, batch):
    through_neck(detector, lambda k, x: (x * 8).round() / 8)
    _, gradient, flags = ask(detector, batch)
    assert gradient.best_agreement == 0
    assert set(flags) & {'gradient_wrong', 'objective_jagged'}


def through_pixels(model, change):
    """Let pixel values go through a function, before they are normalised."""
    forward = model.data_preprocessor.forward

    def changed(data, training=False):
        inputs = [change(x) for x in data['inputs']]
        return forward({**data, 'inputs': inputs}, training)

    model.data_preprocessor.forward = changed


@pytest.mark.parametrize(
    'change, blind',
    [
        (lambda x: x, False),
        (lambda x: x.clamp(0, 255), False),
        (lambda x: x.clamp(120, 140), True),
        # Nothing hangs on the values that are left out.
        (
            lambda x: x[:, ::2, ::2].repeat_interleave(2, 1).repeat_interleave(2, 2),
            None,
        ),
    ],
)
def test_pixels_without_a_gradient_that_matter_are_flagged(
    detector, batch, change, blind
):
    through_pixels(detector, change)
    probe = ModelProbe(1)
    probe_blind_pixels(oracle_of(detector), batch, PGD(eps=8), probe)
    codes = [flag.code for flag in check_probes(Probes(probe), 'total')]
    assert codes == (['zero_gradients'] if blind else [])
    assert (probe.blind_share > 0.5) is (blind is not False)


def test_a_blocked_gradient_is_counted(detector, batch):
    detector.backbone.forward = torch.no_grad()(detector.backbone.forward)
    detector.neck.forward = torch.no_grad()(detector.neck.forward)
    _, gradient, _ = ask(detector, batch)
    assert gradient.best_agreement in (None, 0) and gradient.images == 1


@OBJECTIVES.register_module(force=True)
@dataclass
class OfFewObjects(DetectionObjective):
    """Large, and all but constant on an image with one object."""

    def __call__(self, candidates, truth):
        changes = candidates.log_odds.mean()
        return changes if len(truth.boxes) > 1 else 30 + 1e-7 * changes


def test_an_objective_that_rounding_hides_on_one_image_is_told_by_others(
    detector, batch
):
    """As `detections` is where no candidate is on an object."""
    flat = copy.deepcopy(batch)
    flat['data_samples'][0].set_metainfo(dict(img_id=1))
    objects = flat['data_samples'][0].gt_instances
    flat['data_samples'][0].gt_instances = objects[:1]
    both = {key: batch[key] + flat[key] for key in batch}
    objective = dict(type='OfFewObjects')
    assert ask(detector, both, objective)[1].best_agreement > 0.97
    _, gradient, _ = ask(detector, flat, objective)
    assert gradient.best_agreement is None and gradient.constant == 1
    flags = check_probes(Probes(ModelProbe(), [gradient]), gradient.objective)
    assert [flag.code for flag in flags] == ['objective_constant']


def test_the_luck_of_noise_is_measured(detector, batch):
    probe = ObjectiveProbe('total')
    for eps in (2, 16):
        probe_noise(oracle_of(detector), batch, PGD(eps=eps), probe)
    assert set(probe.noise_rise) == {'Linf 2', 'Linf 16'} and probe.passes == 18
    assert probe.noise_rise['Linf 16'] > probe.noise_rise['Linf 2'] > 0


def test_what_was_found_survives_a_file():
    probes = Probes(ModelProbe(3, fit={'2': 0.5}), [ObjectiveProbe('cls', 3)])
    assert Probes.from_json(probes.to_json()) == probes
    assert probes.of('cls').images == 3 and probes.of('reg') is None
