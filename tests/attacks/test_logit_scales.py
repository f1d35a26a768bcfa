"""Logits times 1e-4 or 1e4: what hides from the cross-entropy is seen by DLR, or told.

A scale changes no prediction. Softmax saturates where it is large, so that the gradient
of the cross-entropy is exactly zero. Where it is small, the cross-entropy is nearly
``log K - z_y + mean(z)``: it lowers the true class below the mean of all, not below the
one that is closest. Where it is tiny, what the classes differ by is lost in the
rounding of ``log K``.
"""

import pytest
import torch
from classifiers import logits_of, make_batch, make_classifier, random_batch
from conftest import run

from mmdiff.attacks import APGD
from mmdiff.evaluation.checks import check_entry, check_scores
from mmdiff.evaluation.entry import Entry, Sanity

SCALES = (1, 1e-4, 1e-9, 1e4)
COUNT, EPS = 8, 10


def scaled(scale):
    """A classifier whose logits are those of another one times a number."""
    model = make_classifier(num_classes=5)
    model.head.fc.weight.data *= 20 * scale  # of the bare one, margins of about 1
    model.head.fc.bias.data *= 20 * scale
    return model


@pytest.fixture(scope='module')
def batch():
    """Images of the classes that the classifier sees in them."""
    images = random_batch(COUNT)['inputs']
    return make_batch(images, logits_of(scaled(1), images).argmax(1).tolist())


def attacked(scale, batch, attack):
    """Accuracy that an attack leaves, and the codes of the flags of its row."""
    model = scaled(scale)
    result = run(attack, model, batch)
    labels = torch.tensor([s.gt_label.item() for s in batch['data_samples']])
    right = logits_of(model, result.inputs).argmax(1) == labels
    losses = result.stats.losses
    ends = (losses[min(losses)] / COUNT, sum(result.losses) / COUNT)
    sanity = Sanity.of(result.stats, objective_ends=ends)
    entry = Entry('apgd', 'apgd', 'attack', attack.budget, sanity=sanity)
    entry.num_images, entry.metrics = COUNT, {'top1': 100 * right.float().mean().item()}
    entry.cost.grad_evals = result.stats.grad_evals
    clean = Entry.clean()
    clean.num_images, clean.metrics = COUNT, {'top1': 100.0}
    logits = logits_of(model, batch['inputs'])
    spread = (logits.max(1).values - logits.min(1).values).median().item()
    entry.settings['objective'] = attack.objective
    flags = [*check_entry(entry, clean), *check_scores(entry, spread)]
    return right.float().mean().item(), {f.code for f in flags}


def test_dlr_sees_what_a_scale_hides_from_the_cross_entropy(batch):
    """Where the cross-entropy is blind its row is flagged, and DLR is as strong."""
    left, flags = {}, {}
    for scale in SCALES:
        attack = APGD(eps=EPS, steps=8, objective='ce')
        left[scale], flags[scale] = attacked(scale, batch, attack)
        targeted = APGD(eps=EPS, steps=8, objective='dlr_targeted', restarts=2)
        assert attacked(scale, batch, targeted)[0] == 0.0
        # TINY in the denominator of the ratio meets no scale above 1e-9.
        plain = APGD(eps=EPS, steps=8, objective='dlr')
        assert attacked(scale, batch, plain)[0] == 0.0
    assert left[1] == 0.0 and not flags[1]
    assert left[1e4] > 0.9 and 'zero_gradients' in flags[1e4]
    assert left[1e-4] > 0.2 and flags[1e-4] == {'scores_flat'}
    assert left[1e-9] > 0.9 and 'objective_not_raised' in flags[1e-9]
