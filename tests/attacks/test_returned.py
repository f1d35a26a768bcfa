"""What an attack hands on is looked at again."""

import pytest
import torch
from conftest import batch_of

from mmdiff.attacks import PGD, RandomNoise, oracle_of
from mmdiff.attacks.probes import look_at_returned
from mmdiff.attacks.probes.returned import leaves_image


@pytest.fixture
def detector(make_detector):
    return make_detector('fcos', 'resnet')


def look(model, attack, change=None):
    """The account of an attack whose result is changed before it is looked at."""
    oracle, batch = oracle_of(model), batch_of([(3, 64, 64)] * 2, (3, 2))
    result = attack.run(oracle, batch)
    if change is not None:
        change(batch, result)
    look_at_returned(oracle, attack, batch, result)
    return result.stats


@pytest.mark.parametrize('settings', [{}, {'quantize': True}, {'eot': 2}])
def test_a_sound_attack_is_what_it_reports(detector, settings):
    stats = look(detector, PGD(eps=8, steps=2, **settings))
    assert (stats.asked_again, stats.misreported, stats.padding_changed) == (2, 0, 0)
    assert stats.max_delta == 8 and stats.changed == 2


def test_an_image_that_was_handed_back_as_it_was_is_counted(detector):
    def forget(batch, result):
        result.inputs[1] = batch['inputs'][1].float()

    stats = look(detector, PGD(eps=8, steps=2), forget)
    assert (stats.asked_again, stats.misreported, stats.changed) == (2, 1, 1)


def test_fresh_noise_is_no_misreport(detector):
    extract_feat = detector.extract_feat
    # Untrained heads say nearly the same of all features: the noise is large.
    detector.extract_feat = lambda x: [
        y + 100 * torch.randn_like(y) for y in extract_feat(x)
    ]
    stats = look(detector, PGD(eps=8, steps=2))
    assert stats.asked_again == stats.misreported == 0


def test_sizes_are_those_of_the_images_whatever_the_account_says(detector):
    def grow(batch, result):
        result.inputs[0] = batch['inputs'][0].float() + 300
        result.stats.max_delta = 1.0

    stats = look(detector, RandomNoise(eps=8), grow)
    assert stats.max_delta == 300 and stats.pixel_max > 255 and not stats.asked_again


@pytest.mark.parametrize(
    'changed, meta, leaves',
    [
        ((slice(0, 32), slice(0, 48)), {}, False),
        ((slice(0, 34), slice(0, 48)), {}, True),
        ((slice(0, 32), slice(0, 50)), {}, True),
        ((slice(20, 52), slice(8, 56)), {}, True),
        ((slice(20, 52), slice(8, 56)), {'pad_param': [20, 12, 8, 8]}, False),
        ((slice(20, 54), slice(8, 56)), {'pad_param': [20, 12, 8, 8]}, True),
        ((slice(0, 0), slice(0, 0)), {}, False),
    ],
)
def test_a_change_must_fit_the_image_of_the_file(changed, meta, leaves):
    flags = torch.zeros(64, 64, dtype=torch.bool)
    flags[changed] = True
    meta = {'ori_shape': (16, 24), 'scale_factor': (2.0, 2.0), **meta}
    assert leaves_image(flags, meta) is leaves
    for known in ({}, {'ori_shape': (16, 24)}):  # too little is known of the file
        assert not leaves_image(flags, known)
