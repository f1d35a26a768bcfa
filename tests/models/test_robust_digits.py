"""Adversarial training and alignment at the size of digits: they make robust."""

import pytest
import torch
from attacks.classifiers import logits_of, make_batch, make_classifier
from conftest import TINY_UNET, run
from mmengine.optim import OptimWrapper

from mmdiff import PGD, AdversarialModel, AlignedModel

# Segments of a display: top, upper left, upper right, middle, lower left, lower right,
# bottom; and the digits that they show.
SEGMENTS = (
    (0, 1, 0, 5),
    (1, 4, 0, 1),
    (1, 4, 4, 5),
    (4, 5, 0, 5),
    (5, 8, 0, 1),
    (5, 8, 4, 5),
    (8, 9, 0, 5),
)
DIGITS = ('1110111', '0010010', '1011101', '1011011')
EPS = 8
ATTACK = dict(type='mmdiff.PGD', eps=EPS, steps=3, step_size=4, keep_best=False)


def digits(count, seed):
    """Digits of the size 16x16 at random places, of low contrast in noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, len(DIGITS), (count,), generator=generator)
    images = 120 + 15 * torch.randn(count, 3, 16, 16, generator=generator)
    places = torch.randint(0, 3, (count, 2), generator=generator)
    for image, label, (top, left) in zip(images, labels, places.tolist()):
        for shown, (y1, y2, x1, x2) in zip(DIGITS[label], SEGMENTS):
            if shown == '1':
                image[:, top + y1 : top + y2, left + x1 : left + x2] += 60
    return make_batch(images.clamp(0, 255).byte(), labels.tolist())


def train(wrap, steps=150):
    torch.manual_seed(0)
    bare = make_classifier(num_classes=len(DIGITS))
    model = wrap(bare).train()
    optimizer = OptimWrapper(torch.optim.Adam(model.parameters(), lr=5e-3))
    for step in range(steps):
        model.train_step(digits(32, step), optimizer)
    return bare.eval()


def accuracy(model, images, data):
    labels = torch.cat([sample.gt_label for sample in data['data_samples']])
    return (logits_of(model, images.float()).argmax(1) == labels).float().mean().item()


def measure(model):
    """Accuracy on held-out digits, clean and under PGD-10."""
    data = digits(100, 10_000)
    adversarial = run(PGD(EPS, steps=10), model, data).inputs
    return accuracy(model, data['inputs'], data), accuracy(model, adversarial, data)


@pytest.fixture(scope='module')
def standard():
    return measure(train(lambda bare: bare))


def adversarial(bare):
    return AdversarialModel(bare, ATTACK)


def aligned(bare):
    prior = dict(model=TINY_UNET, timestep=10, out_indices=('mid',))
    alignment = dict(in_channels=64, hidden_channels=32, loss_weight=0.3)
    return AlignedModel(adversarial(bare), prior, alignment)


@pytest.mark.parametrize('wrap', [adversarial, aligned])
def test_training_makes_digits_robust(standard, wrap):
    clean, robust = measure(train(wrap))
    assert standard[0] > 0.6 and clean > 0.5
    assert robust > standard[1] + 0.15
