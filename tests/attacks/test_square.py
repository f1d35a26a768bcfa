"""Square: no gradient, smaller and smaller squares, never downhill."""

import pytest
import torch
from conftest import CONFIGS, ask, batch_of, run

from mmdiff.attacks import Square
from mmdiff.attacks.oracle import Question


@pytest.mark.parametrize('head', CONFIGS)
def test_objective_never_falls_and_no_gradient_is_taken(
    make_detector, head, monkeypatch
):
    def forbidden(*args, **kwargs):
        raise AssertionError('a black-box attack took a gradient')

    monkeypatch.setattr(torch.autograd, 'grad', forbidden)
    monkeypatch.setattr(torch.Tensor, 'backward', forbidden)
    attack = Square(eps=16, steps=30)
    model, batch = make_detector(head, 'resnet'), batch_of([(3, 64, 64)])
    result = run(attack, model, batch)
    (adv,) = result.inputs
    values = [result.stats.losses[query] for query in range(30)]
    assert values == sorted(values) and values[-1] > values[0]
    assert result.losses == [pytest.approx(values[-1])]
    assert result.stats.grad_evals == 0
    assert result.stats.queries == 30 + (head == 'faster-rcnn')  # its proposals
    clean = batch['inputs'][0].float()
    # The image handed on is the one with that objective.
    again = ask(attack, model, batch).losses([adv], 0, 0)
    assert again.tolist() == pytest.approx(result.losses, rel=1e-4)
    free = (clean >= 16) & (clean <= 239)  # elsewhere 0..255 clips
    assert ((adv - clean).abs()[free] == 16).all()


def test_one_query_without_a_number_ends_nothing(make_detector, monkeypatch):
    losses_of, calls = Question.losses, []

    def once_broken(*args):
        calls.append(args)
        return losses_of(*args) * (torch.nan if len(calls) == 5 else 1)

    monkeypatch.setattr(Question, 'losses', once_broken)
    model = make_detector('fcos', 'resnet')
    result = run(Square(eps=16, steps=30), model, batch_of([(3, 64, 64)]))
    losses = result.stats.losses
    assert result.losses == [losses[29]] and losses[29] > losses[5] == losses[3]


def test_squares_shrink_as_published():
    """p is halved after 0.1, 0.5, 2, 5, 10, 20, 40, 60 and 80 % of the queries."""
    attack = Square(steps=10_000, p_init=0.8)
    at = [0, 10, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001]
    halvings = [0, 0, *range(1, 10)]
    assert [attack._share(q) for q in at] == [0.8 / 2**k for k in halvings]
    assert Square(steps=1000)._share(21) == attack._share(210)


def test_a_query_changes_one_square(make_detector):
    attack = Square(eps=8, steps=100)
    x = torch.full((3, 40, 40), 100.0)
    draw = torch.Generator().manual_seed(0)
    for query in (0, 30, 99):
        changed = (attack._paint(x, x, query, draw) != x).any(0).nonzero()
        height, width = (changed.amax(0) - changed.amin(0) + 1).tolist()
        assert height == width and len(changed) == height * width
        assert height == max(1, round((attack._share(query) * 1600) ** 0.5))


def test_l2_spends_the_whole_budget_and_rises(make_detector):
    attack = Square(eps=300, steps=30, norm='l2')
    model, batch = make_detector('fcos', 'resnet'), batch_of([(3, 64, 48)])
    result = run(attack, model, batch)
    (adv,) = result.inputs
    values = [result.stats.losses[query] for query in range(30)]
    assert values == sorted(values) and values[-1] > values[0]
    norm = (adv - batch['inputs'][0]).norm().item()
    assert 250 < norm <= 300.01  # what 0..255 clips is spent by later queries
    (again,) = attack(model, batch)
    assert torch.equal(adv, again)


def test_an_l2_query_moves_change_from_square_to_square():
    attack = Square(eps=50, steps=100, norm='l2')
    x = torch.full((3, 40, 50), 100.0)
    draw = torch.Generator().manual_seed(0)
    start = attack._start(x, draw)
    assert (start - x).norm().item() == pytest.approx(50, rel=1e-4)
    for query in (5, 30, 99):
        moved = attack._paint(start, x, query, draw)
        assert (moved - x).norm().item() == pytest.approx(50, rel=1e-3)
        # Outside of the two squares nothing changes.
        side = max(2, round((attack._share(query) * 2000) ** 0.5))
        assert 0 < (moved != start).any(0).sum() <= 2 * side**2


def test_l2_bumps_fall_from_their_centres_as_published():
    from mmdiff.attacks.square import _bump, _pyramid

    hill = _pyramid(5, 5)
    assert hill[2, 2].item() == pytest.approx(1 + 1 / 4 + 1 / 9)
    assert hill[2, 3].item() == hill[1, 1].item() == pytest.approx(1 / 4 + 1 / 9)
    assert hill[0, 4].item() == pytest.approx(1 / 9)
    bump = _bump(6, torch.Generator().manual_seed(0))
    assert bump.norm().item() == pytest.approx(1)
    assert bump.sum().abs() < 1e-5 and bump.max() == -bump.min() > 0
