"""What every attack promises, on ResNet and diffusion detectors of three kinds."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from conftest import CONFIGS, ask, batch_of, run
from torch import nn

from mmdiff import DAG, PGD
from mmdiff.attacks import APGD, MIM, RandomNoise, Square
from mmdiff.utils.modules import training_flags

# The heads are untrained: DAG takes every anchor point, whatever its box and score.
OPEN = dict(active_iou=-1.0, active_score=-1.0, max_proposals=200)
ATTACKS = {
    'pgd': lambda **kw: PGD(**{**dict(eps=8, steps=3), **kw}),
    'pgd-l2': lambda **kw: PGD(**{**dict(eps=300, steps=3, norm='l2'), **kw}),
    'cwa': lambda **kw: PGD(**{**dict(eps=8, steps=3, objective='cwa'), **kw}),
    'mim': lambda **kw: MIM(**{**dict(eps=8, steps=3), **kw}),
    'apgd': lambda **kw: APGD(**{**dict(eps=8, steps=3), **kw}),
    'apgd-l2': lambda **kw: APGD(**{**dict(eps=300, steps=3, norm='l2'), **kw}),
    'vanishing': lambda **kw: APGD(
        **{**dict(eps=8, steps=3, objective='vanishing'), **kw}
    ),
    'square': lambda **kw: Square(**{**dict(eps=8, steps=6), **kw}),
    'square-l2': lambda **kw: Square(**{**dict(eps=300, steps=6, norm='l2'), **kw}),
    'noise': lambda **kw: RandomNoise(**{**dict(eps=8), **kw}),
    'noise-l2': lambda **kw: RandomNoise(**{**dict(eps=300, norm='l2'), **kw}),
    'dag': lambda **kw: DAG(**{**dict(eps=None, steps=3), **OPEN, **kw}),
    'dag-clipped': lambda **kw: DAG(**{**dict(eps=1, steps=4), **OPEN, **kw}),
}
every_detector = pytest.mark.parametrize(
    'head, backbone', [(h, b) for h in CONFIGS for b in ('resnet', 'diffusion')]
)
every_attack = pytest.mark.parametrize('name', ATTACKS)
# Attacks with steps, and one for each way in which a model is patched.
with_steps = pytest.mark.parametrize('name', [n for n in ATTACKS if 'noise' not in n])
every_patch = pytest.mark.parametrize('name', ['pgd', 'dag', 'cwa', 'square'])


@every_detector
@every_attack
def test_budget_range_and_container(make_detector, head, backbone, name):
    model = make_detector(head, backbone)
    # Sizes that are padded, to two different canvases.
    batch = batch_of([(3, 60, 90), (3, 64, 40)], (3, 2))
    attack = ATTACKS[name]()
    result = run(attack, model, batch)
    adversarial = result.inputs
    assert isinstance(adversarial, list) and len(adversarial) == 2
    for x, adv in zip(batch['inputs'], adversarial):
        assert adv.shape == x.shape and adv.dtype == torch.float32
        assert adv.min() >= 0 and adv.max() <= 255
        delta = adv - x.float()
        assert delta.abs().max() > 0.4
        if attack.eps is not None:
            norm = delta.abs().max() if attack.norm == 'linf' else delta.norm()
            assert norm <= attack.eps + 1e-3
    assert result.stats.changed == result.stats.images == 2
    assert result.stats.zero_grads == result.stats.nonfinite_grads == 0


@every_detector
@with_steps
def test_objective_rises(make_detector, head, backbone, name):
    """Losses rise along PGD; along DAG the wrong class gains on the true one."""
    model = make_detector(head, backbone)
    attack = ATTACKS[name](steps=24 if 'square' in name else 6)
    result = run(attack, model, batch_of())
    losses = result.stats.losses
    assert losses[max(losses)] > losses[0]
    (final,) = result.losses
    assert final >= losses[max(losses)] - 1e-5


@pytest.mark.parametrize('backbone', ['resnet', 'diffusion'])
@pytest.mark.parametrize('head', CONFIGS)
def test_attack_beats_noise(make_detector, head, backbone):
    """Random noise of the same size does less harm than the gradient."""
    model = make_detector(head, backbone)
    batch = batch_of()
    attack = PGD(eps=8, steps=8)
    adversarial = attack(model, batch)
    torch.manual_seed(0)
    noise = [x + 8 * torch.randn(x.shape).sign() for x in batch['inputs']]
    noise = [x.clamp(0, 255) for x in noise]

    question = ask(attack, model, batch)

    def loss(images):
        return question.losses(images, 0, 0).sum()

    assert loss(adversarial) > loss(noise) + 0.05


@every_attack
def test_every_attack_gives_the_same_alone(make_detector, name):
    model = make_detector('retinanet', 'resnet')
    shapes, counts = [(3, 64, 64), (3, 32, 64)], (1, 3)
    together = ATTACKS[name]()(model, batch_of(shapes, counts))
    for i, (shape, count) in enumerate(zip(shapes, counts)):
        alone = ATTACKS[name]()(model, batch_of([shape], [count], first_id=i))
        same = (alone[0] - together[i]).abs() < 1e-2
        assert same.float().mean() > 0.99


@pytest.mark.parametrize('backbone', ['resnet', 'diffusion'])
@pytest.mark.parametrize('head', CONFIGS)
@pytest.mark.parametrize('name', ['pgd', 'dag-clipped'])
def test_same_alone_and_in_a_batch(make_detector, head, backbone, name):
    """An image's result depends on nothing else in the batch, nor on the order."""
    model = make_detector(head, backbone)
    if head == 'faster-rcnn':
        # An untrained RPN has many near ties, which rounding decides: take them all.
        cfg = dict(
            nms_pre=5000, max_per_img=5000, nms=dict(type='nms', iou_threshold=1.0)
        )
        model.train_cfg.rpn_proposal.update(cfg)
        model.roi_head.bbox_sampler.num = model.rpn_head.sampler.num = 5000
    shapes, counts = [(3, 64, 96), (3, 64, 96), (3, 96, 64)], (1, 4, 2)
    together = ATTACKS[name]()(model, batch_of(shapes, counts))
    for i, (shape, count) in enumerate(zip(shapes, counts)):
        alone = ATTACKS[name]()(model, batch_of([shape], [count], first_id=i))
        # Sums in another order round differently; a sign flips where a gradient is 0.
        same = (alone[0] - together[i]).abs() < 1e-2
        assert same.float().mean() > 0.995


def test_repeats_exactly_and_leaves_the_global_random_state(make_detector):
    model = make_detector()
    state = torch.get_rng_state()
    first = PGD(eps=4, steps=2)(model, batch_of())
    torch.manual_seed(1234)
    second = PGD(eps=4, steps=2)(model, batch_of())
    assert torch.equal(first[0], second[0])
    other = PGD(eps=4, steps=2, seed=1)(model, batch_of())
    assert not torch.equal(first[0], other[0])
    torch.manual_seed(0)
    batch = batch_of()
    state = torch.get_rng_state()
    PGD(eps=4, steps=1)(model, batch)
    assert torch.equal(state, torch.get_rng_state())


def snapshot(model):
    return dict(
        flags=[m.training for m in model.modules()],
        buffers={k: v.clone() for k, v in model.named_buffers()},
        wanted=[p.requires_grad for p in model.parameters()],
    )


def assert_as_before(model, before):
    after = snapshot(model)
    assert after['flags'] == before['flags']
    assert after['wanted'] == before['wanted']
    for key, value in before['buffers'].items():
        assert torch.equal(value, after['buffers'][key]), key
    assert all(p.grad is None for p in model.parameters())


@every_detector
@every_patch
@pytest.mark.parametrize('training', [False, True])
def test_model_is_left_as_it_was(make_detector, head, backbone, name, training):
    model = make_detector(head, backbone).train(training)
    # A mixture of flags, as a detector with frozen stages has.
    model.backbone.eval()
    before = snapshot(model)
    ATTACKS[name]()(model, batch_of())
    assert_as_before(model, before)


@every_patch
def test_model_is_left_as_it_was_after_an_exception(make_detector, name):
    model = make_detector('faster-rcnn', 'resnet')
    before = snapshot(model)

    def broken(*args, **kwargs):
        raise KeyError('broken head')

    model.roi_head.loss = model.roi_head._bbox_forward = broken
    with pytest.raises(KeyError, match='broken head'):
        ATTACKS[name]()(model, batch_of())
    assert 'extract_feat' not in vars(model)
    assert 'loss_and_predict' not in vars(model.rpn_head)
    assert 'forward' not in vars(model.roi_head.bbox_head.loss_cls)
    del model.roi_head.loss, model.roi_head._bbox_forward
    assert_as_before(model, before)


@every_attack
def test_ground_truth_and_batch_are_untouched(make_detector, name):
    model = make_detector()
    batch = batch_of([(3, 64, 96)], scale=0.5)
    boxes = batch['data_samples'][0].gt_instances.bboxes.clone()
    image = batch['inputs'][0].clone()
    keys = set(batch['data_samples'][0].all_keys())
    ATTACKS[name]()(model, batch)
    assert torch.equal(boxes, batch['data_samples'][0].gt_instances.bboxes)
    assert torch.equal(image, batch['inputs'][0]) and image.dtype == torch.uint8
    assert set(batch['data_samples'][0].all_keys()) == keys


@pytest.mark.parametrize('head', CONFIGS)
def test_boxes_are_scaled_to_the_input(make_detector, head):
    """Boxes at the scale of a file twice as large give the loss of the right boxes."""
    model = make_detector(head, 'resnet')
    plain, halved = batch_of(), batch_of(scale=0.5)
    losses = {}
    for key, batch, gt_scale in (
        ('plain', plain, 'original'),
        ('scaled', halved, 'original'),
        ('wrong', halved, 'input'),
    ):
        attack = PGD(eps=4, steps=1, random_start=False)
        losses[key] = run(attack, model, batch, gt_scale).stats.losses[0]
    assert losses['scaled'] == pytest.approx(losses['plain'], rel=1e-5)
    assert losses['wrong'] != pytest.approx(losses['plain'], rel=1e-2)


def test_flipped_inputs_get_flipped_boxes(make_detector):
    from mmdiff.attacks.oracle.ground_truth import to_input_scale

    sample = batch_of(scale=0.5)['data_samples'][0]
    sample.set_metainfo(dict(flip=True, flip_direction='horizontal'))
    boxes = to_input_scale(sample, 'original').gt_instances.bboxes
    original = sample.gt_instances.bboxes * 0.5
    expected = original.clone()
    expected[:, 0], expected[:, 2] = 96 - original[:, 2], 96 - original[:, 0]
    assert torch.allclose(boxes, expected, atol=1e-4)


@pytest.mark.parametrize('name', ATTACKS)
def test_uint8_round_trip_stays_in_the_budget(make_detector, name):
    model = make_detector()
    batch = batch_of()
    args = {} if name.endswith('-l2') else dict(eps=2.5)
    attack = ATTACKS[name](quantize=True, **args)
    (adv,) = attack(model, batch)
    assert torch.equal(adv, adv.round())
    delta = adv - batch['inputs'][0].float()
    norm = delta.norm() if attack.norm == 'l2' else delta.abs().max()
    assert 0 < norm <= attack.eps


@every_attack
def test_under_no_grad_autocast_and_a_wrapper(make_detector, name):
    """As test loops call it: mixed precision and DDP change nothing."""
    from mmengine.registry import MODEL_WRAPPERS

    model = make_detector()

    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    MODEL_WRAPPERS.register_module(module=Wrapper, name='TestWrapper', force=True)
    plain = ATTACKS[name]()(model, batch_of())
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        wrapped = ATTACKS[name]()(Wrapper(model), batch_of())
        assert not torch.is_grad_enabled()
    assert torch.equal(plain[0], wrapped[0])


def test_a_subclass_with_its_own_init_is_one_sentence():
    with pytest.raises(TypeError, match='Hidden has an __init__ of its own, and the'):

        class Hidden(PGD):
            def __init__(self, strength):
                self.strength = strength


def test_attacks_in_threads_take_turns_and_put_everything_back(make_detector):
    model, batch = make_detector('fcos', 'resnet'), batch_of([(3, 64, 64)])
    dropout, reduce, attack = F.dropout, dist.all_reduce, PGD(eps=4, steps=3)
    expected = run(attack, model, batch)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(run, attack, model, batch) for _ in range(8)]
        results = [job.result() for job in jobs]
    assert all(torch.equal(r.inputs[0], expected.inputs[0]) for r in results)
    assert F.dropout is dropout and dist.all_reduce is reduce


@every_detector
@pytest.mark.parametrize('name', ['pgd', 'dag', 'cwa'])
def test_image_without_boxes(make_detector, head, backbone, name):
    model = make_detector(head, backbone)
    (adv,) = ATTACKS[name]()(model, batch_of(num_items=(0,)))
    changed = (adv - batch_of(num_items=(0,))['inputs'][0]).abs().max() > 0
    # There is no class to take away, but false detections to add.
    assert bool(changed) == (name != 'dag')


def test_masks_are_scaled_and_flipped_with_the_boxes():
    import numpy as np
    from mmdet.structures.mask import BitmapMasks

    from mmdiff.attacks.oracle.ground_truth import to_input_scale

    sample = batch_of(num_items=(1,), scale=0.5)['data_samples'][0]
    image = np.zeros((1, 128, 192), np.uint8)
    image[:, 20:40, 10:50] = 1
    sample.gt_instances.masks = BitmapMasks(image, 128, 192)
    sample.set_metainfo(dict(flip=True, flip_direction='horizontal'))
    masks = to_input_scale(sample, 'original').gt_instances.masks
    expected = np.zeros((1, 64, 96), np.uint8)
    expected[:, 10:20, 71:91] = 1
    assert (masks.masks == expected).all()
    assert (sample.gt_instances.masks.masks == image).all()


def test_stacked_inputs_give_stacked_results(make_detector):
    model = make_detector()
    batch = batch_of([(3, 64, 96)] * 2, (2, 2))
    batch['inputs'] = torch.stack(batch['inputs'])
    adversarial = PGD(eps=2, steps=1)(model, batch)
    assert isinstance(adversarial, torch.Tensor) and adversarial.shape == (2, 3, 64, 96)


@every_attack
def test_zero_budget_changes_nothing(make_detector, name):
    batch = batch_of()
    attack = ATTACKS[name](eps=0)
    result = run(attack, make_detector(), batch)
    assert torch.equal(result.inputs[0], batch['inputs'][0].float())
    assert result.stats.grad_evals == result.stats.queries == 0


@every_attack
def test_skipped_images_cost_nothing_and_change_nothing(make_detector, name):
    model = make_detector('retinanet', 'resnet')
    batch = batch_of([(3, 64, 64)] * 3, (1, 3, 2))
    attack = ATTACKS[name]()
    whole = run(attack, model, batch)
    part = run(attack, model, batch, skip=[False, True, False])
    everyone, some = whole.inputs, part.inputs
    assert torch.equal(some[1], batch['inputs'][1].float())
    for i in (0, 2):
        # Another batch size rounds differently; a sign flips where a gradient is 0.
        same = (some[i] - everyone[i]).abs() < 1e-2
        assert same.float().mean() > 0.99
        if not math.isnan(whole.losses[i]):
            assert part.losses[i] == pytest.approx(whole.losses[i], 1e-3)
    assert math.isnan(part.losses[1])
    assert part.stats.images == 2 and whole.stats.images == 3
    if 'dag' not in name:
        assert part.stats.grad_evals == whole.stats.grad_evals / 3 * 2
        assert part.stats.queries == whole.stats.queries / 3 * 2
    nothing = run(attack, model, batch, skip=[True] * 3)
    assert nothing.stats.images == 0 and all(map(math.isnan, nothing.losses))
    with pytest.raises(ValueError, match='skip has 1 flags for 3 images'):
        run(attack, model, batch, skip=[True])


@pytest.mark.parametrize('name', ['pgd', 'pgd-l2', 'apgd', 'square'])
def test_restarts_one_by_one_are_those_at_once(make_detector, name):
    model = make_detector('faster-rcnn', 'resnet')
    batch = batch_of([(3, 64, 64)] * 2, (2, 3))
    at_once = run(ATTACKS[name](restarts=3), model, batch)
    runs = [run(ATTACKS[name](restart_offset=k), model, batch) for k in range(3)]
    for i in range(2):
        best = max(runs, key=lambda result, i=i: result.losses[i])
        assert torch.equal(best.inputs[i], at_once.inputs[i])
        assert best.losses[i] == at_once.losses[i]
    assert not torch.equal(runs[0].inputs[0], runs[1].inputs[0])


def test_dropout_and_norms_stay_still(make_detector):
    model = make_detector('faster-rcnn', 'resnet')
    model.neck.dropout = nn.Dropout(0.5)
    with training_flags(model, True):
        assert model.rpn_head.training and model.roi_head.bbox_head.training
        assert not model.backbone.bn1.training
        assert not model.neck.dropout.training


def test_bad_arguments_are_one_sentence():
    for make, words in (
        (lambda: PGD(eps=-1), 'eps=-1 is negative'),
        (lambda: PGD(norm='l1'), "norm='l1' is unknown"),
        (lambda: PGD(steps=0), 'steps=0 must be at least 1'),
        (lambda: PGD(eps=None), 'PGD needs a budget'),
        (lambda: RandomNoise(eps=None), 'RandomNoise needs eps'),
        (lambda: PGD(proposals='none'), "proposals='none' must be"),
        (lambda: APGD(rho=0), 'rho=0 must be above 0'),
        (lambda: MIM(decay=-1), 'decay=-1 must not be negative'),
        (lambda: Square(p_init=2), 'p_init=2 must be above 0'),
        (lambda: PGD(objective='best'), "objective='best' is unknown"),
        (lambda: PGD(step_size=0.0), 'step_size=0.0 must be above 0'),
        (lambda: DAG(steps=0), 'steps=0 must be at least 1'),
        (lambda: DAG(eps=-2), 'eps=-2 is negative'),
        (lambda: PGD(eps=[2, 4]), r'eps=\[2, 4\] must be one number'),
        (lambda: PGD(eps='8/255'), "eps='8/255' must be one number"),
        (lambda: PGD(eps=float('nan')), 'eps=nan is no budget'),
        (lambda: PGD(eps=float('inf')), 'eps=inf is no budget'),
        (lambda: PGD(steps=1.5), 'steps=1.5 must be a whole number'),
        (lambda: PGD(eot='2'), "eot='2' must be a whole number"),
        (lambda: DAG(steps=1.5), 'steps=1.5 must be a whole number'),
        (lambda: PGD(objective=None), 'objective=None is unknown'),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            make()
        assert '\n' not in str(caught.value)


def test_needs_ground_truth_and_its_scale(make_detector):
    model = make_detector()
    with pytest.raises(ValueError, match="gt_scale='other' must be"):
        PGD()(model, batch_of(), 'other')
    batch = batch_of(scale=0.5)
    del batch['data_samples'][0].scale_factor
    with pytest.raises(ValueError, match="add 'ori_shape' and 'scale_factor'"):
        PGD()(model, batch)
    batch = batch_of()
    del batch['data_samples'][0].gt_instances
    with pytest.raises(ValueError, match='needs ground truth'):
        PGD()(model, batch)


def test_test_time_augmentation_is_refused(make_detector):
    from mmdet.models import DetTTAModel

    model = DetTTAModel(module=make_detector())
    with pytest.raises(ValueError, match='test-time augmentation'):
        PGD()(model, batch_of())
