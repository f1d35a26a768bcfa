"""Attacks of torchattacks: what they do to a model, and the promises they keep."""

import random
import sys

import numpy as np
import pytest
import torch
from conftest import batch_of, run

import mmdiff
from mmdiff.attacks import GradientBlocked, NotApplicable
from mmdiff.attacks.torch_names import KINDS, is_black_box
from mmdiff.registry import ATTACKS

pytest.importorskip('mmpretrain')
from classifiers import (  # noqa: E402
    logits_of,
    make_batch,
    make_classifier,
    random_batch,
)

TorchAttack = mmdiff.TorchAttack
REASON = 'torchattacks is not installed (pip install --no-deps torchattacks)'


@pytest.fixture(scope='module')
def model():
    return make_classifier()


@pytest.fixture
def torchattacks():
    return pytest.importorskip('torchattacks', reason=REASON)


@pytest.fixture
def right_batch(model):
    """Images with the classes that the model gives them."""
    images = random_batch()['inputs']
    return make_batch(images, logits_of(model, images).argmax(1))


# Small settings of those that would take seconds.
FEW = {
    'SPSA': dict(nb_sample=4),
    'SparseFool': dict(steps=1),
    'DeepFool': dict(steps=1),
    'EADEN': dict(binary_search_steps=1),
    'EADL1': dict(binary_search_steps=1),
    'OnePixel': dict(popsize=3),
    'Pixle': dict(restarts=2),
    'PGDRS': dict(noise_batch_size=2),
    'PGDRSL2': dict(noise_batch_size=2),
    'SINIFGSM': dict(m=2),
    'VMIFGSM': dict(N=2),
    'VNIFGSM': dict(N=2),
}


@pytest.mark.parametrize('name', KINDS)
def test_every_attack_keeps_its_promises(torchattacks, model, right_batch, name):
    kind = KINDS[name]
    eps = dict(linf=8, l2=400)[kind.norms[0]] if kind.has_budget else None
    attack = TorchAttack(name, eps=eps, **{'steps': 2, **FEW.get(name, {})})
    flags = [m.training for m in model.modules()]
    torch.manual_seed(1)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    result = run(attack, model, right_batch)
    clean = right_batch['inputs'].float()
    delta = result.inputs - clean
    assert result.inputs.shape == clean.shape and result.inputs.isfinite().all()
    assert result.inputs.min() >= 0 and result.inputs.max() <= 255
    if kind.has_budget:
        assert all(attack.budget.measure(d) <= eps + 1e-3 for d in delta)
    stats = result.stats
    assert stats.images == 3 == stats.changed + stats.returned_clean
    assert stats.returned_clean == 0 or kind.returns_clean
    assert stats.grad_evals > 0 if kind.reads_gradients else stats.grad_evals == 0
    assert stats.nonfinite_grads == 0
    assert flags == [m.training for m in model.modules()]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    assert random.getstate() == states[2]
    again = run(attack, model, right_batch)
    assert torch.equal(again.inputs, result.inputs)


def test_images_that_stay_clean_are_bit_by_bit_those_of_the_batch(
    torchattacks, model, right_batch
):
    """In 0..1 and back again, many values would change by rounding."""
    wrong = make_batch(right_batch['inputs'], [3, 3, 3])
    wrong['inputs'] = wrong['inputs'].float() + 0.3 - 0.6 * (wrong['inputs'] > 200)
    labels = (logits_of(model, wrong['inputs']).argmax(1) + 1) % 10
    wrong = make_batch(wrong['inputs'], labels)
    result = run(TorchAttack('APGD', eps=8, steps=2), model, wrong)
    assert torch.equal(result.inputs, wrong['inputs'])
    assert (result.stats.changed, result.stats.returned_clean) == (0, 3)


def test_passes_are_counted(torchattacks, model, right_batch):
    stats = run(TorchAttack('PGD', steps=3), model, right_batch).stats
    assert (stats.grad_evals, stats.queries, stats.zero_grads) == (9, 0, 0)
    square = TorchAttack('Square', eps=0.001, steps=5)
    stats = run(square, model, right_batch).stats
    # The clean images, the first stripes, five squares, and a look at the end.
    assert (stats.grad_evals, stats.queries) == (0, 3 * 8)


def test_images_of_several_sizes_are_attacked(torchattacks, model, right_batch):
    images = [*right_batch['inputs'], torch.full((3, 40, 32), 90, dtype=torch.uint8)]
    batch = make_batch(images, [1, 2, 3, 4])
    result = run(TorchAttack('FGSM', eps=4), model, batch)
    sizes = [(a - x).abs().max().item() for a, x in zip(result.inputs, images)]
    assert sizes == pytest.approx([4] * 4)


def test_autoattack_takes_steps_for_its_members(torchattacks, model, right_batch):
    first = {k: v[:1] for k, v in right_batch.items()}
    one = run(TorchAttack('AutoAttack', eps=1e-3, steps=1), model, first)
    two = run(TorchAttack('AutoAttack', eps=1e-3, steps=2), model, first)
    assert two.stats.queries - one.stats.queries >= 50
    assert two.stats.grad_evals > one.stats.grad_evals


def test_what_leaves_the_budget_is_clipped(torchattacks, model, right_batch):
    """UPGD and others clip by themselves; the last word is that of the budget."""
    attack = TorchAttack('PGD', eps=8, steps=2)
    harmless = torchattacks.PGD.forward

    def too_far(self, images, labels):
        return harmless(self, images, labels) + 0.5

    torchattacks.PGD.forward = too_far
    try:
        result = run(attack, model, right_batch)
    finally:
        torchattacks.PGD.forward = harmless
    assert (result.inputs - right_batch['inputs']).abs().max() <= 8
    assert result.inputs.max() <= 255


def test_the_model_is_as_before_after_an_exception(torchattacks, model, right_batch):
    attack, flags = TorchAttack('PGD'), [m.training for m in model.modules()]
    forward, calls = model.backbone.forward, []

    def breaking(x):
        calls.append(x)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return forward(x)

    model.backbone.forward = breaking
    try:
        with pytest.raises(KeyboardInterrupt):
            run(attack, model.train(), right_batch)
        assert all(m.training for m in model.modules())
    finally:
        del model.backbone.forward
        model.eval()
    assert flags == [m.training for m in model.modules()]
    assert all(p.requires_grad for p in model.parameters())


def test_a_model_that_blocks_gradients_is_named(torchattacks, right_batch):
    model = make_classifier()
    forward = model.backbone.forward
    model.backbone.forward = lambda x: tuple(f.detach() for f in forward(x))
    with pytest.raises(GradientBlocked, match='no attack can see through it'):
        run(TorchAttack('PGD'), model, right_batch)


def test_the_report_names_all_settings():
    attack = ATTACKS.build(
        dict(type='TorchAttack', name='PGD', eps=4, steps=20, alpha=2, quantize=True)
    )
    told = attack.threat_model()
    assert (told['attack'], told['eps'], told['steps']) == ('torch_pgd', 4, 20)
    assert (told['alpha'], told['norm'], told['quantize']) == (2, 'linf', True)
    assert 'name' not in told and 'options' not in told
    assert TorchAttack('CW', c=10).budget == mmdiff.attacks.Budget(None, 'l2')
    assert TorchAttack('APGD').eps == 8 and TorchAttack('PGDL2', eps=300).norm == 'l2'
    assert is_black_box('torch_square') and not is_black_box('torch_pgd')


def test_defaults_of_torchattacks_are_told(torchattacks):
    assert TorchAttack('PGD').threat_model()['steps'] == 10
    assert TorchAttack('Square').steps == 5000
    assert TorchAttack('EOTPGD').threat_model()['eot'] == 2
    assert 'eot' not in TorchAttack('PGD', eot=1).threat_model()
    assert TorchAttack('FGSM', steps=1).steps is None  # as a loop tries it


@pytest.mark.parametrize(
    'settings, words',
    [
        (dict(name='APDG'), "no attack 'APDG' .*choose one of FGSM, BIM"),
        (dict(name='APGD', eps=0), 'eps=0 leaves APGD nothing to do'),
        (dict(name='APGD', eps=-1), 'eps=-1 is negative'),
        (dict(name='CW', eps=8), 'smallest change and has no budget; leave out eps=8'),
        (dict(name='PGDL2'), 'PGDL2 with norm=l2 needs eps'),
        (dict(name='APGD', norm='l2'), 'APGD with norm=l2 needs eps'),
        (dict(name='PGDL2', eps=8, norm='linf'), 'of the norm l2, not of linf'),
        (dict(name='PGD', mask='boxes'), 'changes whole images; use PGD, APGD or'),
        (dict(name='PGD', steps=0), 'steps=0 must be at least 1'),
    ],
)
def test_a_mistake_is_one_sentence(settings, words):
    with pytest.raises(ValueError, match=words):
        TorchAttack(**settings)


@pytest.mark.parametrize(
    'settings, words',
    [
        (dict(stepz=3), "does not take 'stepz'; it takes eps, steps, alpha, random_st"),
        (dict(eot=4), 'PGD of torchattacks averages no passes .eot=4.; use EOTPGD'),
    ],
)
def test_settings_are_those_of_torchattacks(torchattacks, settings, words):
    with pytest.raises(ValueError, match=words):
        TorchAttack('PGD', **settings)


def test_what_torchattacks_cannot_do_is_one_sentence(torchattacks, model, right_batch):
    with pytest.raises(ValueError, match="APGD of torchattacks failed .*'loss': 'cs'"):
        run(TorchAttack('APGD', loss='cs'), model, right_batch)
    small, batch = make_classifier(3), random_batch(2, 2)
    with pytest.raises(NotApplicable, match='APGDT compares 4 classes .* has 3'):
        run(TorchAttack('APGDT'), small, batch)
    run(TorchAttack('FAB', steps=1, multi_targeted=True), small, batch)


def test_a_detector_is_refused(make_detector):
    with pytest.raises(NotApplicable, match='is for classifiers and RetinaNet is a de'):
        TorchAttack('PGD')(make_detector('retinanet', 'resnet'), batch_of())


def test_a_head_of_several_classes_is_refused():
    model = make_classifier(head='MultiLabelLinearClsHead')
    with pytest.raises(ValueError, match='MultiLabelLinearClsHead tells several class'):
        run(TorchAttack('AutoAttack'), model, random_batch())


def test_missing_torchattacks_is_one_sentence(monkeypatch, model, right_batch):
    monkeypatch.setitem(sys.modules, 'torchattacks', None)
    attack = TorchAttack('APGD', stepz=3)  # nobody can tell
    words = 'torchattacks is not installed; run: pip install --no-deps torchattacks'
    with pytest.raises(NotApplicable, match=words):
        run(attack, model, right_batch)
