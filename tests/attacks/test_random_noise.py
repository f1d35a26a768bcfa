"""The control: as large as an attack, and harmless beside it."""

import pytest
import torch
from conftest import CONFIGS, ask, batch_of

from mmdiff import PGD
from mmdiff.attacks import RandomNoise


@pytest.mark.parametrize('head', CONFIGS)
@pytest.mark.parametrize('norm, eps', [('linf', 8), ('l2', 400)])
def test_noise_raises_the_loss_less_than_pgd(make_detector, head, norm, eps):
    model = make_detector(head, 'resnet')
    batch = batch_of()
    question = ask(PGD(proposals='moving'), model, batch)

    def loss(images):
        return question.losses(images, 0, 0).item()

    clean = loss([batch['inputs'][0].float()])
    noise = loss(RandomNoise(eps=eps, norm=norm)(model, batch))
    attacked = loss(PGD(eps=eps, norm=norm, steps=5)(model, batch))
    assert attacked - clean > 2 * abs(noise - clean)


def test_noise_lies_at_the_edge_of_the_budget(make_detector):
    model, batch = make_detector(), batch_of([(3, 64, 64)] * 2, (1, 1))
    for x in batch['inputs']:
        x.clamp_(100, 150)  # nothing is clipped
    linf = RandomNoise(eps=8)(model, batch)
    l2 = RandomNoise(eps=300, norm='l2')(model, batch)
    deltas = [adv - x.float() for adv, x in zip(linf, batch['inputs'])]
    assert all((delta.abs() == 8).all() for delta in deltas)
    assert abs(deltas[0].mean()) < 0.5 and not torch.equal(*deltas)
    for adv, x in zip(l2, batch['inputs']):
        assert (adv - x.float()).norm().item() == pytest.approx(300, rel=1e-4)
