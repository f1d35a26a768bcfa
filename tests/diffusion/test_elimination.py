"""Classes that cannot win are dropped: the same winner for a part of the passes."""

import pytest
import torch
from conftest import TINY_UNET

from mmdiff import DiffusionModel
from mmdiff.diffusion.elimination import Elimination, eliminate, spread_order
from mmdiff.diffusion.levels import choose_levels
from mmdiff.diffusion.likelihood import ClassLikelihood

CLASSES, LEVELS = 10, 126


def build(num_levels=LEVELS, kind=ClassLikelihood):
    torch.manual_seed(0)
    source = {**TINY_UNET, 'sample_size': 16, 'num_class_embeds': CLASSES}
    model = DiffusionModel.from_pretrained(source).requires_grad_(False)
    return kind(model, choose_levels(model, num_levels), chunk_size=256)


class Simulated(ClassLikelihood):
    """Errors as of a real prior: what classes share is large, what sets them apart
    small and unequal over the levels.
    """

    def table(self, count):
        generator = torch.Generator().manual_seed(1)
        level = torch.linspace(1, 0, LEVELS)
        shared = 2 * level + 0.2 * torch.randn(count, 1, LEVELS, generator=generator)
        gaps = 0.02 * torch.rand(count, CLASSES, 1, generator=generator)
        gaps[torch.arange(count), torch.arange(count) % CLASSES] -= 0.02
        noise = torch.randn(count, CLASSES, LEVELS, generator=generator)
        return shared + gaps * (0.5 + level) + 0.01 * noise

    def pair_errors(self, x, draws, level, image, label):
        assert (level.diff() >= 0).all()
        return self.table(len(x))[image, label, level]

    def class_errors(self, x):
        return self.table(len(x))


def test_the_winner_is_that_of_the_full_sum_for_an_eighth_of_the_passes():
    likelihood, x = build(kind=Simulated), torch.zeros(300, 3, 16, 16)
    full = likelihood.class_logits(x)
    logits, calls = eliminate(likelihood, x)
    same = (logits.argmax(1) == full.argmax(1)).float().mean()
    assert same >= 0.99
    assert calls.double().mean() <= likelihood.passes / 8
    assert calls.min() >= 8 * CLASSES and len(calls.unique()) > 3
    # Not by luck: the first levels alone would choose otherwise.
    few = likelihood.class_errors(x)[..., spread_order(LEVELS)[:2]].sum(2).argmin(1)
    assert (few == full.argmax(1)).float().mean() < 0.99


def test_logits_are_exact_where_no_class_is_dropped():
    likelihood = build(num_levels=12)
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    full = likelihood.class_logits(x)
    # Eight levels first, and then none left to doubt: all are used.
    logits, calls = eliminate(likelihood, x, Elimination(min_levels=12))
    assert torch.allclose(logits, full, rtol=1e-4)
    assert calls.tolist() == [12 * CLASSES] * 2
    sure = eliminate(likelihood, x, Elimination(0.9999999, min_levels=4))
    assert torch.equal(sure.logits.argmax(1), full.argmax(1))


def test_calls_are_the_images_that_the_network_saw():
    likelihood, sizes = build(num_levels=20), []
    unet = likelihood.model.unet
    unet.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    result = eliminate(likelihood, torch.rand(3, 3, 16, 16), Elimination(min_levels=4))
    assert result.calls.sum().item() == sum(sizes)
    assert not result.logits.requires_grad


def test_an_image_races_alone_as_it_does_in_a_batch():
    likelihood = build(num_levels=20)
    x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    together = eliminate(likelihood, x, Elimination(min_levels=4))
    alone = eliminate(likelihood, x[1:2], Elimination(min_levels=4))
    assert alone.calls[0] == together.calls[1]
    assert torch.allclose(alone.logits[0], together.logits[1], rtol=1e-4)


@pytest.mark.parametrize('count', [1, 2, 7, 126])
def test_each_beginning_of_the_order_is_spread_over_all_levels(count):
    order = spread_order(count)
    assert sorted(order) == list(range(count))
    gaps = torch.tensor(sorted(order[: count // 2])).diff()
    assert count < 4 or gaps.max() <= 4


def test_wrong_rules_are_one_sentence():
    for settings, message in (
        (dict(confidence=1.0), 'confidence=1.0 must be above 0.5 and below 1'),
        (dict(min_levels=1), 'min_levels=1 must be at least 2'),
        (dict(step=0), 'step=0 at least 1'),
    ):
        with pytest.raises(ValueError, match=message):
            Elimination(**settings)
