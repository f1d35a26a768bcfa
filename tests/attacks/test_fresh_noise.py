"""Models that draw: averaged gradients, and what a single gradient is worth.

What attacks leave is measured on many fresh draws, which no attack has seen.
"""

import pytest
import torch
from classifiers import random_batch
from conftest import ask, run
from test_shields import batch, classifier, detector, shield  # noqa: F401 (a fixture)

from mmdiff.attacks import PGD

DRAWS = 16


def objectives(attack, model, data, inputs):
    """Objectives of images on fresh draws, (DRAWS, N), which no attack has seen."""
    question = ask(PGD(eps=8, objective=attack.objective, seed=99), model, data)
    pixels = [torch.as_tensor(x).float() for x in inputs]
    return torch.stack([question.losses(pixels, 7, draw) for draw in range(DRAWS)])


def compared(model, data, attacks, models=()):
    """Mean objective over draws and images that each attack leaves, and its error."""
    means, errors = [], []
    for attack, attacked in zip(attacks, models or [model] * len(attacks)):
        inputs = run(attack, attacked, data).inputs
        drawn = objectives(attack, model, data, inputs).mean(1)
        means.append(drawn.mean().item())
        errors.append((drawn.std() / DRAWS**0.5).item())
    return means, errors


def test_averaged_gradients_are_at_least_as_strong_on_a_classifier():
    model = shield(classifier(), noise='fresh', timestep=300)
    data = random_batch(4, 4)
    attacks = [PGD(eps=8, steps=6, objective='ce', eot=eot) for eot in (1, 4)]
    (single, averaged), _ = compared(model, data, attacks)
    clean = objectives(attacks[0], model, data, data['inputs']).mean().item()
    assert averaged > clean and averaged - clean >= single - clean


def test_averaged_gradients_are_at_least_as_strong_on_a_detector(detector):  # noqa: F811
    model, data = shield(detector, noise='fresh', timestep=300), batch()
    attacks = [PGD(eps=4, steps=3, eot=eot) for eot in (1, 4)]
    (single, averaged), _ = compared(model, data, attacks)
    clean = objectives(attacks[0], model, data, data['inputs']).mean().item()
    assert averaged > clean and averaged - clean >= single - clean


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(timestep=300),
        dict(type='mmdiff.DiffPure', steps=3, timestep=300),
    ],
    ids=['one-step', 'diffpure'],
)
def test_another_gradient_beats_the_exact_one_by_no_more_than_noise(kwargs):
    """Of smooth purifiers: a replaced gradient leaves more, never clearly less."""
    data, attack = random_batch(2, 4), PGD(eps=8, steps=4, objective='ce', eot=2)
    ways = [dict(gradient='exact'), dict(gradient='bpda')]
    if 'steps' in kwargs:
        ways.append(dict(gradient='surrogate', surrogate_steps=1))
    models = [shield(classifier(), noise='fresh', **kwargs, **way) for way in ways]
    means, errors = compared(models[0], data, [attack] * len(ways), models)
    for mean, error in zip(means[1:], errors[1:]):
        assert mean <= means[0] + 2 * (error**2 + errors[0] ** 2) ** 0.5
    clean = objectives(attack, models[0], data, data['inputs']).mean().item()
    assert means[0] > clean
