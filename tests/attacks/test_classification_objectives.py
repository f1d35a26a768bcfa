"""What attacks on classifiers ascend: values by hand, and what it costs."""

import pytest
import torch
from conftest import ask, run

from mmdiff.attacks import APGD, PGD, NotApplicable, Square
from mmdiff.attacks.objectives import NAMES, check_objective
from mmdiff.attacks.objectives.classification import (
    DLR,
    OBJECTIVES,
    DLRTargeted,
    KLDivergence,
    LogitMargin,
)
from mmdiff.attacks.probes import attack_and_look

pytest.importorskip('mmpretrain')
from classifiers import logits_of, make_classifier, random_batch  # noqa: E402

LOGITS = torch.tensor([[5.0, 1.0, 2.0, 3.0, 0.0], [4.0, 2.0, 1.0, 3.0, 0.0]])
LABELS = torch.tensor([0, 1])


def test_every_name_is_built():
    assert NAMES['classification'] == (
        *OBJECTIVES,
        'dlr',
        'dlr_targeted',
        'cw',
        'kl',
        'lagrange',
    )
    for name in NAMES['classification']:
        assert PGD(objective=name).threat_model()['objective'] == name


def test_values_are_those_of_the_formulas():
    # Image 0 is right: 5 against 3, largest logits 5, 3, 2, 1. Image 1 is wrong.
    assert LogitMargin()(LOGITS, LABELS).tolist() == [-2.0, 2.0]
    assert DLR()(LOGITS, LABELS).tolist() == pytest.approx([-2 / 3, 2 / 2])
    first = DLRTargeted()(LOGITS, LABELS, LOGITS)
    assert first.tolist() == pytest.approx([-2 / 3.5, 2 / 2.5])
    second = DLRTargeted(rank=2)(LOGITS, LABELS, LOGITS)
    assert second.tolist() == pytest.approx([-3 / 3.5, 1 / 2.5])


def test_targets_are_ranked_on_the_clean_image_and_begin_anew_after_the_last():
    targets = [
        DLRTargeted(rank).target(LOGITS, LABELS)[0].item() for rank in range(1, 7)
    ]
    assert targets == [3, 2, 1, 4, 3, 2]
    assert DLRTargeted().at_restart(3) == DLRTargeted(rank=4)


def test_dlr_does_not_change_with_the_scale_of_logits():
    for objective in (DLR(), DLRTargeted()):
        scaled = objective(1000 * LOGITS + 7, LABELS, LOGITS)
        assert torch.allclose(scaled, objective(LOGITS, LABELS, LOGITS), atol=1e-3)


def test_kl_is_the_divergence_of_the_clean_prediction():
    other = torch.tensor([[1.0, 1.0, 1.0, 1.0, 1.0], [4.0, 2.0, 1.0, 3.0, 0.0]])
    kl = KLDivergence()(other, LABELS, LOGITS)
    p = LOGITS[0].softmax(0)
    assert kl[0] == pytest.approx((p * (p / 0.2).log()).sum().item(), rel=1e-5)
    assert kl[1] == pytest.approx(0, abs=1e-6)


@pytest.fixture(scope='module')
def model():
    return make_classifier()


@pytest.mark.parametrize('name', ['dlr', 'dlr_targeted', 'cw', 'kl'])
def test_every_objective_rises_in_one_forward_for_the_batch(model, name):
    batch, calls = random_batch(), []
    hook = model.backbone.register_forward_hook(
        lambda module, args, out: calls.append(len(args[0]))
    )
    result = run(PGD(eps=8, steps=4, objective=name), model, batch)
    hook.remove()
    clean = name in ('dlr_targeted', 'kl')
    # Four gradients, one look at the end, and the clean logits where they are needed.
    assert calls == [3] * (5 + clean)
    assert result.stats.queries == 3 * (1 + clean)
    assert result.stats.grad_evals == 12
    losses = result.stats.losses
    assert losses[4] > losses[0]


@pytest.mark.parametrize('name', ['dlr', 'dlr_targeted', 'cw', 'kl'])
def test_an_image_is_attacked_as_if_it_were_alone(model, name):
    batch, attack = random_batch(), APGD(eps=4, steps=3, objective=name)
    alone = dict(inputs=batch['inputs'][1:2], data_samples=batch['data_samples'][1:2])
    same = run(attack, model, batch).inputs[1] - run(attack, model, alone).inputs[0]
    assert (same.abs() < 1e-2).float().mean() > 0.98


def test_restarts_aim_at_different_classes(model):
    batch = random_batch()
    attack = APGD(eps=16, steps=8, objective='dlr_targeted')
    question = ask(attack, model, batch)
    images = [x.float() for x in batch['inputs']]
    labels, clean = torch.arange(3), logits_of(model, images)
    for restart in (0, 4, 11):
        expected = DLRTargeted(1 + restart)(clean, labels, clean)
        assert torch.allclose(question.losses(images, restart, 0), expected, atol=1e-4)
    ends = [
        run(APGD(eps=16, steps=8, objective='dlr_targeted', **own), model, batch).losses
        for own in (dict(restart_offset=0), dict(restart_offset=1), dict(restarts=2))
    ]
    assert ends[2] == pytest.approx([max(pair) for pair in zip(*ends[:2])], rel=1e-3)


def test_the_objective_of_a_later_restart_is_asked_again_with_its_own_target(model):
    attack = APGD(eps=8, steps=3, objective='dlr_targeted', restart_offset=2)
    oracle = ask(attack, model, random_batch()).oracle
    result = attack_and_look(attack, oracle, random_batch(), [False] * 3)
    assert (result.stats.asked_again, result.stats.misreported) == (3, 0)


def test_black_box_search_takes_the_margin(model):
    result = run(Square(eps=16, steps=10, objective='cw'), model, random_batch())
    assert result.stats.losses[9] > result.stats.losses[0]


def test_mistakes_are_one_sentence(model):
    with pytest.raises(ValueError, match=r"'dlt' is unknown.*detection: total.*dlr"):
        PGD(objective='dlt')
    with pytest.raises(ValueError, match=r"'margin' is none of classification.*'dlr'"):
        run(PGD(objective='margin', steps=1), model, random_batch())
    with pytest.raises(ValueError, match="'dlr' is none of detection; choose one"):
        check_objective('dlr', 'detection')
    with pytest.raises(ValueError, match='rank=0 must be a number of at least 1'):
        PGD(objective=dict(type='DLRTargeted', rank=0))


@pytest.mark.parametrize('name, needed', [('dlr', 3), ('dlr_targeted', 4)])
def test_too_few_classes_are_refused(name, needed):
    model, batch = make_classifier(needed - 1), random_batch(2, 2)
    words = f'compares the {needed} largest logits and the model has {needed - 1} cla'
    with pytest.raises(NotApplicable, match=words):
        run(PGD(steps=1, objective=name), model, batch)
    run(PGD(steps=1, objective=name), make_classifier(needed), batch)
