"""Smoothed detections: order statistics, guarantees, state, and any detector."""

import os

import numpy as np
import pytest
import torch
from conftest import TINY_UNET, batch_of, detector_config
from mmdet.models.detectors import BaseDetector
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmdiff import PGD, PurifiedModel, SmoothedDetector
from mmdiff.diffusion.levels import equivalent_sigma
from mmdiff.models import OneStepDenoiser
from mmdiff.models.smoothing import NoisyDetections
from mmdiff.models.smoothing.order_statistics import Ranks, copies_needed, ranks
from mmdiff.models.smoothing.slots import sorted_slots
from mmdiff.registry import MODELS

SIGMA = 0.1
SIDE = 8
BASE = torch.tensor([20.0, 30.0, 60.0, 80.0])


@MODELS.register_module(force=True)
class LinearDetector(BaseDetector):
    """One box, whose corners are linear in the image; there if a third is positive.

    Rows are the directions of the corners and of the condition, of an L2 norm that is
    known, for images in [0, 1].
    """

    def __init__(self, condition=10.0):
        super().__init__(data_preprocessor=dict(type='mmdet.DetDataPreprocessor'))
        rows = torch.randn(
            5, 3 * SIDE * SIDE, generator=torch.Generator().manual_seed(0)
        )
        rows = rows / rows.norm(dim=1, keepdim=True)
        self.rows = torch.nn.Parameter(
            rows * torch.tensor([[30.0], [9], [20], [5], [1]])
        )
        self.condition, self.sizes, self.passes = condition, [], 0

    def told(self, images):
        return images.flatten(1) @ self.rows.T

    def predict(self, inputs, data_samples, rescale=True):
        self.sizes.append(len(inputs))
        for told, sample in zip(self.told(inputs / 255), data_samples):
            there = told[4] + self.condition > 0
            sample.pred_instances = InstanceData(
                bboxes=(BASE + told[:4])[None][: int(there)],
                scores=torch.full((int(there),), 0.9),
                labels=torch.full((int(there),), 2),
            )
        return data_samples

    def loss(self, *args):
        raise NotImplementedError

    def _forward(self, *args):
        raise NotImplementedError

    def extract_feat(self, *args):
        raise NotImplementedError


def toy(num_copies=400, radii=(0.05, 0.1), **kwargs):
    kwargs.setdefault('model', dict(type='LinearDetector', _scope_='mmdiff'))
    return SmoothedDetector(
        sigma=SIGMA, num_copies=num_copies, radii=radii, **kwargs
    ).eval()


def remember_inputs(model, seen):
    """Append to ``seen`` what the detector is given."""

    def hook(module, args, kwargs):
        seen.append(kwargs['inputs'])

    model.model.register_forward_pre_hook(hook, with_kwargs=True)


def pictures(count=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return list(
        torch.randint(0, 256, (count, 3, SIDE, SIDE), generator=generator).byte()
    )


def smooth(model, images):
    metainfo = dict(img_shape=(SIDE, SIDE), ori_shape=(90, 90), scale_factor=(1.0, 1.0))
    samples = [DetDataSample(metainfo=metainfo) for _ in images]
    return model.test_step(dict(inputs=list(images), data_samples=samples))


# Order statistics.


def test_ranks_cover_the_percentiles_and_no_tighter_ones_do():
    """20,000 experiments with 60 copies of a normal variable."""
    copies, radius, sigma, alpha = 60, 0.5, 1.0, 0.2
    chosen = ranks(copies, radius, sigma, alpha)
    draws = np.sort(np.random.default_rng(0).standard_normal((20_000, copies)), 1)

    def missed(rank, below):
        """How often a bound is on the wrong side of what it is to bound."""
        value = draws[:, rank - 1]
        return (value > -radius if below else value < radius).mean()

    each, noise = alpha / 8, 4 * (alpha / 8 / 20_000) ** 0.5
    for below, rank, tighter in ((True, chosen.lower, 1), (False, chosen.upper, -1)):
        assert missed(rank, below) <= each + noise
        assert missed(rank + tighter, below) > each - noise


def test_as_many_copies_as_are_needed_have_ranks():
    for radius in (0.01, 0.36, 0.6):
        needed = copies_needed(radius, 0.25, 1e-3)
        found = ranks(needed, radius, 0.25, 1e-3)
        assert found == Ranks(1, needed)
        assert ranks(needed - 1, radius, 0.25, 1e-3) is None
    assert copies_needed(1000, 0.25, 1e-3) == float('inf')


def test_slots_sort_within_classes_and_cells_and_pad_with_infinities():
    def found(copy, x, y, score, label):
        return copy, [x - 5, y - 5, x + 5, y + 5], score, label

    rows = [
        found(0, 20, 10, 0.3, 1),
        found(0, 10, 10, 0.9, 1),
        found(1, 25, 10, 0.8, 1),
        found(1, 80, 10, 0.7, 1),  # another cell
        found(2, 12, 10, 0.6, 0),  # another class
    ]
    parts = [torch.tensor(part) for part in zip(*rows)]
    detections = NoisyDetections(3, parts[0], parts[1].float(), parts[2], parts[3])
    inf = float('inf')

    def left_sides(**kwargs):
        slots = sorted_slots(detections, (100, 100), **kwargs)
        return slots.labels.tolist(), slots.coordinates[:, 0].tolist()

    labels, sides = left_sides()
    assert labels == [0, 1, 1, 1]
    assert sides == [[7, inf, inf], [5, 20, inf], [15, inf, inf], [75, inf, inf]]
    _, sides = left_sides(location_bins=1)
    assert sides == [[7, inf, inf], [5, 20, inf], [15, 75, inf]]
    _, sides = left_sides(location_bins=1, sorting='score')
    assert sides == [[7, inf, inf], [5, 20, inf], [15, 75, inf]]
    slots = sorted_slots(detections, (100, 100))
    assert slots.scores[1].tolist() == pytest.approx([0, 0.8, 0.9])
    boxes, scores = slots.medians()  # of two of three copies
    assert boxes[1].tolist() == [20, 5, 30, 15] and boxes[0].isinf().all()
    assert scores[1] == pytest.approx(0.8)
    low, high = slots.bounds(Ranks(1, 3))
    assert low[1].tolist() == [5, 5, 15, 15] and high[1].isinf().all()


# Guarantees.


def test_no_attack_of_the_radius_leaves_the_bounds():
    """The median of a linear detector is the linear function itself, also attacked."""
    model, (image,) = toy(), pictures()
    (sample,) = smooth(model, [image])
    slot = sample.certified_instances
    first = slot.thresholds == 0.1
    assert first.sum() == 1 and slot.labels[first].tolist() == [2]
    detector, x = model.model, image.float()[None] / 255
    norms = detector.rows[:4].norm(dim=1)
    generator = torch.Generator().manual_seed(1)
    for number, radius in enumerate(model.settings.radii):
        low, high = slot.lower[first, number][0], slot.upper[first, number][0]
        random = torch.randn(200, x.numel(), generator=generator)
        worst = torch.cat([detector.rows[:4], -detector.rows[:4], random])
        steps = radius * worst / worst.norm(dim=1, keepdim=True)
        median = BASE + detector.told(x + steps.view(-1, *x.shape[1:]))[:, :4]
        assert (low <= median.amin(0)).all() and (median.amax(0) <= high).all()
        # And they are no wider than the noise of so many copies: 5 deviations.
        room = 2 * radius * norms + 5 * 2 * norms * SIGMA / 400**0.5
        assert (high - low <= room * 1.5).all()


def test_a_box_that_an_attack_can_take_away_has_no_certificate():
    """It is there in half of the copies where the condition is just met."""
    image = pictures()[0]
    bare = LinearDetector(0.0)
    told = bare.told(image[None] / 255)[0, 4].item()

    def bounds(distance):
        cfg = dict(type='LinearDetector', _scope_='mmdiff', condition=distance - told)
        return smooth(toy(model=cfg), [image])[0]

    near, far, lost = bounds(0.05), bounds(0.3), bounds(-0.3)
    assert len(near.pred_instances) == len(far.pred_instances) == 1
    # The attack of radius 0.05 is that of the condition's own direction.
    assert near.certified_instances.upper[0, 1].isinf().all()
    assert far.certified_instances.upper[0].isfinite().all()
    # It is not reported, and none of these attacks makes it appear.
    assert len(lost.pred_instances) == 0
    assert lost.certified_instances.lower[:, :].isinf().all()
    close = bounds(-0.05)
    assert len(close.pred_instances) == 0
    assert close.certified_instances.lower[0, 1].isfinite().all()


def test_bounds_are_wrong_no_more_often_than_alpha():
    """100 smoothings of one image: any of eight bounds within alpha = 0.4."""
    radius, alpha = 0.05, 0.4
    detector, (image,) = LinearDetector(), pictures()
    told = BASE + detector.told(image.float()[None] / 255)[0, :4]
    shift = radius * detector.rows[:4].norm(dim=1)
    wrong = 0
    for seed in range(100):
        model = toy(
            60,
            [radius],
            alpha=alpha,
            noise_seed=seed,
            model=detector,
            thresholds=[0.5],
            batch_size=60,
        )
        slot = smooth(model, [image])[0].certified_instances
        wrong += bool(
            (slot.lower[0, 0] > told - shift).any()
            or (slot.upper[0, 0] < told + shift).any()
        )
    # A bound that is tight fails in alpha / 8 of the cases: of eight, some do.
    assert 0 < wrong <= 100 * alpha


# Copies.


def test_noise_follows_from_the_image_and_the_seed_alone():
    images = pictures(3)
    together = toy(30, [0.05], batch_size=7)
    single = toy(30, [0.05], batch_size=30)
    boxes = [sample.pred_instances.bboxes for sample in smooth(together, images)]
    assert max(together.model.sizes) == 7
    for image, expected in zip(images, boxes):
        (sample,) = smooth(single, [image.float()])
        assert torch.allclose(sample.pred_instances.bboxes, expected, atol=1e-3)
    (other,) = smooth(toy(30, [0.05], noise_seed=1), images[:1])
    assert not torch.allclose(other.pred_instances.bboxes, boxes[0], atol=1e-2)


def test_noise_has_its_sigma_and_nothing_is_clipped():
    model, seen = toy(50, [0.05]), []
    remember_inputs(model, seen)
    image = torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)
    smooth(model, [image])
    noise = torch.cat(seen) / 255
    assert len(noise) == 50 and noise.min() < -2 * SIGMA
    assert noise.std().item() == pytest.approx(SIGMA, rel=0.03)
    assert abs(noise.mean().item()) < 4 * SIGMA / noise.numel() ** 0.5


def test_a_denoiser_is_given_the_noise_that_it_expects():
    torch.manual_seed(0)
    denoiser = OneStepDenoiser(TINY_UNET, timestep=100)
    sigma = denoiser.noise_level / 2
    x = torch.rand(2, 3, 30, 32) * 1.2 - 0.6
    # What it makes of noise of its own, as long as nothing is continued.
    square = torch.cat([x, x[..., -2:, :]], 2)
    own = denoiser(square)
    noisy = square + 2 * sigma * denoiser.draw(square, 0, 0)
    assert torch.allclose(denoiser.remove_noise(noisy), own, atol=1e-5)
    assert denoiser.remove_noise(noisy[..., :30, :]).shape == x.shape
    model = SmoothedDetector(
        dict(type='LinearDetector', _scope_='mmdiff'),
        sigma,
        20,
        [sigma / 4],
        purifier=denoiser,
    ).eval()
    seen = []
    remember_inputs(model, seen)
    (image,) = pictures()
    smooth(model, [image])
    inputs = torch.cat(seen)
    assert len(inputs) == 20 and inputs.min() >= 0 and inputs.max() <= 255
    copy = next(model._noisy(image.float(), 'name', 0))
    expected = denoiser.remove_noise(copy[None].flip(1) / 127.5 - 1).flip(1)
    data = dict(inputs=[copy], data_samples=[DetDataSample()])
    assert torch.allclose(
        model.front(data)['inputs'], (expected + 1) * 127.5, atol=1e-3
    )


# State.


def test_an_interrupted_test_goes_on(tmp_path):
    images = pictures(2)
    whole = smooth(toy(60, [0.05]), images)
    first = toy(60, [0.05], state_dir=tmp_path)
    smooth(first, images[:1])
    again = toy(60, [0.05], state_dir=tmp_path)
    results = smooth(again, images)
    assert sum(again.model.sizes) == 60  # those of the second image
    for result, expected in zip(results, whole):
        assert torch.equal(
            result.certified_instances.lower, expected.certified_instances.lower
        )
    # Other radii need no copies, and more copies only those that are missing.
    more = toy(80, [0.02], state_dir=tmp_path)
    (result,) = smooth(more, images[:1])
    assert sum(more.model.sizes) == 20
    (expected,) = smooth(toy(80, [0.02]), images[:1])
    found, wanted = (s.certified_instances.upper for s in (result, expected))
    assert torch.allclose(found, wanted, atol=1e-3)
    fewer = toy(60, [0.05], state_dir=tmp_path)
    assert torch.equal(
        smooth(fewer, images[:1])[0].certified_instances.lower,
        whole[0].certified_instances.lower,
    )
    assert not fewer.model.sizes


def test_what_is_kept_is_of_one_model_and_never_torn(tmp_path):
    (image,) = pictures()
    smooth(toy(60, [0.05], state_dir=tmp_path), [image])
    (file,) = tmp_path.rglob('*.safetensors')
    other = toy(60, [0.05], state_dir=tmp_path)
    other.model.rows.data *= 1.01
    smooth(other, [image])
    assert sum(other.model.sizes) == 60
    seed = toy(60, [0.05], state_dir=tmp_path, noise_seed=1)
    smooth(seed, [image])
    assert sum(seed.model.sizes) == 60
    os.truncate(file, file.stat().st_size - 20)
    torn = toy(60, [0.05], state_dir=tmp_path)
    smooth(torn, [image])
    assert sum(torn.model.sizes) == 60
    with pytest.raises(ValueError, match='a built one does not tell'):
        toy(model=LinearDetector(), state_dir=tmp_path)


# Detectors.


@pytest.mark.parametrize(
    'head, denoised', [('faster-rcnn', True), ('fcos', False), ('retinanet', False)]
)
def test_any_detector_is_smoothed_with_its_own_weights(make_detector, head, denoised):
    bare = make_detector(head, 'resnet')
    torch.manual_seed(1)
    shield, sigma = None, 0.02
    if denoised:
        shield = OneStepDenoiser(TINY_UNET, timestep=10)
        sigma = shield.noise_level / 2
    cfg = detector_config(head, 'resnet')
    model = SmoothedDetector(
        cfg, sigma, 15, [sigma / 10], purifier=shield, thresholds=[0.06], batch_size=8
    ).eval()
    assert model.state_dict().keys() == bare.state_dict().keys()
    assert not any(model.load_state_dict(bare.state_dict()))
    results = model.test_step(batch_of([(3, 64, 64), (3, 32, 64)], (2, 0)))
    for result in results:
        boxes = result.pred_instances
        assert len(boxes) and (boxes.scores.diff() <= 0).all()
        assert (boxes.bboxes[:, 2:] >= boxes.bboxes[:, :2]).all()
        slots = result.certified_instances
        there = slots.bboxes.isfinite().all(1)
        assert there.sum() == len(boxes)
        low, high = slots.lower[there, 0], slots.upper[there, 0]
        assert (low <= slots.bboxes[there]).all() and (
            high >= slots.bboxes[there]
        ).all()


# Mistakes.


@pytest.mark.parametrize(
    'kwargs, words',
    [
        (dict(num_copies=0), 'num_copies=0 must be a whole number of at least 1'),
        (dict(num_copies=20), 'no order statistic .* give num_copies=53 at least'),
        (dict(radii=[50.0]), 'no number of copies has one; take a smaller radius'),
        (dict(radii=[]), r'radii=\[\] must be different numbers above 0'),
        (dict(thresholds=[0.1, 1.5]), r'thresholds=\[0.1, 1.5\] must be different'),
        (dict(alpha=1), 'alpha=1 must be above 0 and below 1'),
        (dict(sorting='size'), "sorting='size' is unknown; choose one of"),
        (dict(location_bins=0), 'location_bins=0 must be a whole number'),
        (dict(batch_size=0), 'batch_size=0 must be a whole number'),
        (dict(noise_seed=0.5), 'noise_seed=0.5 must be a whole number'),
        (dict(channel_order='hsv'), "channel_order='hsv' is unknown"),
    ],
)
def test_bad_settings_are_one_sentence(kwargs, words):
    with pytest.raises(ValueError, match=words) as caught:
        toy(**kwargs)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('sigma', [0, -1, float('nan'), 'much'])
def test_there_must_be_noise(sigma):
    with pytest.raises(ValueError, match='must be a number above 0: the standard dev'):
        SmoothedDetector(LinearDetector(), sigma, 100, [0.01])


@pytest.mark.parametrize(
    'shield, words',
    [
        (dict(timestep=300), 'expects .*: give the purifier timestep=57, or the Smoo'),
        (dict(timestep=57, noise_seed=3), 'draws none: give noise_seed to the Smoo'),
        (dict(timestep=57, noise='fresh'), 'draws none: give noise_seed to the Smoo'),
        (dict(type='mmdiff.DiffPure', timestep=57, steps=2), 'DiffPure adds noise of'),
        (dict(timestep=57, condition=1), 'This prior is unconditional'),
        (
            dict(timestep=57, model={**TINY_UNET, 'num_class_embeds': 3}),
            'This prior is class-conditional: give a class',
        ),
        (dict(timestep=None), 'got neither timestep nor sigma'),
    ],
)
def test_denoisers_of_another_noise_are_refused(shield, words):
    purifier = dict(type='mmdiff.OneStepDenoiser', model=TINY_UNET)
    with pytest.raises(ValueError, match=words) as caught:
        toy(purifier={**purifier, **shield})
    assert '\n' not in str(caught.value)


def test_the_matching_timestep_is_taken_and_no_other():
    prior = OneStepDenoiser(TINY_UNET, timestep=57).prior
    level = equivalent_sigma(prior, 57)
    assert level == pytest.approx(2 * SIGMA, rel=0.05)
    for timestep in (55, 60):
        with pytest.raises(ValueError, match=f'denoiser at timestep={timestep} expect'):
            toy(purifier=OneStepDenoiser(TINY_UNET, timestep=timestep))
    with pytest.raises(ValueError, match='expects .*: give the SmoothedDetector sigma'):
        SmoothedDetector(
            LinearDetector(),
            1e4,
            50,
            [0.01],
            purifier=OneStepDenoiser(TINY_UNET, timestep=999),
        )


def test_what_is_no_single_detector_is_refused(make_detector):
    detector = make_detector('fcos', 'resnet')
    tta = dict(type='DetTTAModel', module=detector_config('fcos', 'resnet'))
    with pytest.raises(ValueError, match='DetTTAModel augments images at test time'):
        toy(model=dict(tta, _scope_='mmdet'))
    shield = dict(type='mmdiff.OneStepDenoiser', model=TINY_UNET, timestep=50)
    for inner in (toy(), PurifiedModel(detector, shield)):
        with pytest.raises(ValueError, match='behind a shield already'):
            toy(model=inner)
    with pytest.raises(ValueError, match='behind a shield already'):
        PurifiedModel(toy(), shield)
    with pytest.raises(TypeError, match='Linear has no data_preprocessor'):
        toy(model=torch.nn.Linear(1, 1))
    pytest.importorskip('mmpretrain')
    backbone = dict(type='ResNet', depth=18)
    classifier = dict(_scope_='mmpretrain', type='ImageClassifier', backbone=backbone)
    with pytest.raises(ValueError, match='tells classes of images and has no boxes'):
        toy(model=classifier)


def test_attacks_and_losses_are_refused(make_detector):
    model = toy(model=make_detector('fcos', 'resnet'))
    batch = batch_of([(3, 64, 64)], (1,))
    with pytest.raises(ValueError, match='medians over sorted boxes.*cannot be attack'):
        PGD(eps=1, steps=1)(model, batch)
    with pytest.raises(ValueError, match="no mode 'loss': medians"):
        model(batch['inputs'], batch['data_samples'], mode='loss')
    with pytest.raises(ValueError, match="no mode 'predict' without data samples"):
        model(batch['inputs'], mode='predict')
