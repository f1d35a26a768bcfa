"""Images as files of 8 bits hold them."""

import pytest
import torch
from conftest import batch_of

from mmdiff.attacks import Budget, oracle_of
from mmdiff.engine.loops.whole_pixels import OwnPixels, as_on_file


@pytest.mark.parametrize(
    'budget', [Budget(4), Budget(2.5), Budget(0.7), Budget(60, 'l2')]
)
@pytest.mark.parametrize('whole', [True, False])
def test_files_keep_the_budget_between_them(budget, whole):
    generator = torch.Generator().manual_seed(0)
    clean = 255 * torch.rand(3, 16, 16, generator=generator)
    clean = clean.round() if whole else clean
    adv = budget.project(clean + budget.sample_edge(clean, generator), clean)
    file, other = as_on_file(adv, clean, budget), as_on_file(clean, clean, None)
    assert torch.equal(file, file.round()) and torch.equal(other, other.round())
    assert file.min() >= 0 and file.max() <= 255
    assert budget.measure(file - other) <= budget.eps
    assert (file - adv).abs().max() <= (1 if whole else 1.5)


def test_plain_rounding_would_leave_a_budget_that_is_no_whole_number():
    """It is why values are rounded towards the clean pixel there."""
    clean, budget = torch.full((1, 2, 2), 100.0), Budget(2.5)
    adv = clean + 2.5
    assert budget.measure((adv + 0.1).round() - clean) == 3
    assert as_on_file(adv, clean, budget).unique().tolist() == [102]


def test_values_that_no_file_holds_are_cut():
    clean = torch.tensor([[[10.0, 250.0]]])
    assert as_on_file(clean + 300, clean, Budget()).tolist() == [[[255, 255]]]


def test_padding_stays_as_it_is(make_detector):
    """It is no part of the image: it may have fractions, and is not saved."""
    batch = batch_of([(3, 64, 96)], [2])
    sample = batch['data_samples'][0]
    sample.set_metainfo(dict(img_shape=(64, 96), ori_shape=(64, 80)))
    batch['inputs'][0] = batch['inputs'][0].float()
    batch['inputs'][0][:, :, 80:] = 114.5
    oracle = oracle_of(make_detector('fcos', 'resnet'))
    attacked = [x.clone() for x in batch['inputs']]
    attacked[0][:, :, :80] += 0.3
    attacked[0].clamp_(0, 255)
    pixels = OwnPixels.of(oracle, batch, attacked, Budget(1))
    assert pixels.cut(0).shape == (3, 64, 80)
    (rounded,) = pixels.rounded_inputs()
    assert torch.equal(rounded, batch['inputs'][0])
    assert OwnPixels.of(oracle, batch, batch['inputs'], None).rounded_inputs() is None
