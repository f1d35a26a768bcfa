"""Our attacks beside those of torchattacks and of AutoAttack's authors."""

import pytest
import torch
from conftest import run

from mmdiff.attacks import APGD, MIM, PGD, AttackStats, Square, TorchAttack, oracle_of
from mmdiff.attacks.torch_logits import Logits
from mmdiff.registry import ATTACKS

pytest.importorskip('mmpretrain')
REASON = 'torchattacks is not installed (pip install --no-deps torchattacks)'
torchattacks = pytest.importorskip('torchattacks', reason=REASON)
from classifiers import (  # noqa: E402
    logits_of,
    make_batch,
    make_classifier,
    random_batch,
)


@pytest.fixture(scope='module')
def model():
    return make_classifier()


@pytest.fixture(scope='module')
def batch(model):
    """Images with the classes that the model gives them: all are right."""
    images = random_batch(8, size=16)['inputs']
    return make_batch(images, logits_of(model, images).argmax(1))


def count_right(model, batch, attack):
    images = run(attack, model, batch).inputs
    labels = torch.cat([sample.gt_label for sample in batch['data_samples']])
    return int((logits_of(model, images).argmax(1) == labels).sum())


# Half of the images withstand it.
EPS = 5.0
PLAIN = dict(objective='ce', random_start=False, keep_best=False, steps=5)
PAIRS = {
    'PGD': (
        PGD(eps=8, step_size=2.0, **PLAIN),
        TorchAttack('PGD', eps=8, alpha=2, steps=5, random_start=False),
    ),
    'PGDL2': (
        PGD(eps=300, step_size=80.0, norm='l2', **PLAIN),
        TorchAttack('PGDL2', eps=300, alpha=80, steps=5, random_start=False),
    ),
    'MIFGSM': (
        MIM(eps=8, step_size=2.0, decay=1.0, **PLAIN),
        TorchAttack('MIFGSM', eps=8, alpha=2, steps=5, decay=1.0),
    ),
}


@pytest.mark.parametrize('name', PAIRS)
def test_from_the_same_start_the_same_steps_lead_to_the_same_images(model, batch, name):
    ours, theirs = (run(attack, model, batch).inputs for attack in PAIRS[name])
    assert (ours - batch['inputs']).abs().max() > 2
    assert (ours - theirs).abs().max() / 255 < 1e-4


@pytest.mark.parametrize(
    'ours, theirs',
    [
        (dict(type=APGD, objective='ce'), dict(name='APGD')),
        (dict(type=APGD, objective='dlr'), dict(name='APGD', loss='dlr')),
        (
            dict(type=APGD, objective='dlr_targeted', restarts=9),
            dict(name='APGDT'),
        ),
        (dict(type=Square, objective='cw'), dict(name='Square')),
    ],
    ids=['apgd-ce', 'apgd-dlr', 'apgd-t', 'square'],
)
def test_as_many_images_withstand_ours_as_theirs(model, batch, ours, theirs):
    """Random starts differ, so one image may."""
    eps, steps = (20.0, 100) if theirs['name'] == 'Square' else (EPS, 10)
    left = count_right(model, batch, ATTACKS.build(dict(ours, eps=eps, steps=steps)))
    theirs = count_right(model, batch, TorchAttack(eps=eps, steps=steps, **theirs))
    assert 0 < left < 8 and abs(left - theirs) <= 1


def test_autoattack_leaves_what_that_of_its_authors_leaves(model, batch):
    """With as many steps: by default torchattacks takes a tenth of them."""
    authors = pytest.importorskip(
        'pyautoattack', reason='pyautoattack is not installed (pip install --no-deps)'
    )
    steps, oracle = 5, oracle_of(model)
    labels = torch.cat([sample.gt_label for sample in batch['data_samples']])
    with oracle.attacked():
        attack = authors.AutoAttack(
            Logits(oracle, AttackStats()), eps=EPS / 255, seed=0
        )
        attack.apgd.n_iter = attack.apgd_targeted.n_iter = attack.fab.n_iter = steps
        attack.square.n_queries = 50 * steps
        x = batch['inputs'].float() / 255
        ends, _ = attack.run_standard_evaluation(x, labels, batch_size=8)
    theirs = int((logits_of(model, 255 * ends).argmax(1) == labels).sum())
    ours = count_right(model, batch, TorchAttack('AutoAttack', eps=EPS, steps=steps))
    assert 0 < theirs < 8 and abs(ours - theirs) <= 1


def test_torchattacks_leaves_the_budget_if_it_normalises_what_the_model_does(
    model, batch
):
    """As a user's code can have it: images in 0..1, and the flag of normalised ones."""
    oracle, std = oracle_of(model), 0.25
    x = batch['inputs'].float() / 255
    labels = torch.cat([sample.gt_label for sample in batch['data_samples']])
    with oracle.attacked():
        attack = torchattacks.PGD(Logits(oracle, AttackStats()), eps=4 / 255)
        attack.set_normalization_used(mean=[0.5] * 3, std=[std] * 3)
        ends = attack(x, labels)
    assert (ends - x).abs().max().item() == pytest.approx(4 / 255 / std, rel=1e-3)
