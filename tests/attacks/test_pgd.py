"""PGD's gradient and its options."""

import pytest
import torch
from conftest import CONFIGS, ask, batch_of, run

from mmdiff import PGD
from mmdiff.attacks import APGD, GradientBlocked
from mmdiff.attacks.iterative_attack import Trace
from mmdiff.attacks.oracle.detection import DetectionOracle


@pytest.mark.parametrize('backbone', ['resnet', 'diffusion'])
@pytest.mark.parametrize('head', ['retinanet', 'fcos'])
def test_gradient_is_exact(make_detector, head, backbone):
    """Finite differences through preprocessor, backbone, neck, head and loss.

    Two-stage heads choose proposals: their loss is only piecewise differentiable.
    """
    model = make_detector(head, backbone)
    batch = batch_of()
    question = ask(PGD(), model, batch)
    image = batch['inputs'][0].float()
    (grad,), _ = question.gradients([image], 0, 0)
    direction = grad.sign()
    step = 0.05

    def loss(sign):
        return question.losses([image + sign * step * direction], 0, 0).item()

    slope = (loss(1) - loss(-1)) / (2 * step)
    assert slope == pytest.approx((grad * direction).sum().item(), rel=0.05)


def test_gradient_reaches_every_pixel(make_detector):
    model = make_detector('faster-rcnn', 'diffusion')
    batch = batch_of()
    question = ask(PGD(), model, batch)
    (grad,), _ = question.gradients([batch['inputs'][0].float()], 0, 0)
    assert (grad != 0).float().mean() > 0.9


@pytest.mark.parametrize('head', CONFIGS)
def test_more_steps_more_loss(make_detector, head):
    model = make_detector(head, 'diffusion')
    ends = []
    for steps in (1, 4, 16):
        attack = PGD(eps=8, steps=steps + 1, proposals='fixed')  # sampled alike
        ends.append(run(attack, model, batch_of()).stats.losses[steps])
    assert ends[0] < ends[2] and ends[1] < ends[2]


def test_steps_fall_to_one_part_unless_given():
    x = torch.full((3, 8, 8), 100.0)
    for step_size, sizes in ((None, [8, 6, 4, 2]), (1.5, [1.5] * 4)):
        attack = PGD(eps=8, steps=4, step_size=step_size)
        steps = [
            attack.update(Trace(x, x, x), torch.ones_like(x), 0.0, k) for k in range(4)
        ]
        assert [(adv - x).max().item() for adv in steps] == sizes


def test_heads_sample_anew_at_each_step_only_where_proposals_move(
    make_detector, monkeypatch
):
    model, batch = make_detector('faster-rcnn', 'resnet'), batch_of()
    image_losses, seen = DetectionOracle.image_losses, set()

    def watch(self, batch, seeds, objective):
        if torch.is_grad_enabled():
            seen.update(seeds)
        return image_losses(self, batch, seeds, objective)

    monkeypatch.setattr(DetectionOracle, 'image_losses', watch)
    for kind, proposals, count in (
        (PGD, 'moving', 3),
        (PGD, 'fixed', 1),
        (APGD, 'moving', 1),  # it compares objectives from step to step
    ):
        seen.clear()
        kind(eps=4, steps=3, proposals=proposals)(model, batch)
        assert len(seen) == count


def test_restarts_keep_the_highest_loss(make_detector):
    """Each image's loss is at least that of every single restart."""
    model = make_detector('retinanet', 'resnet')
    batch = batch_of([(3, 64, 96)] * 2, (2, 3))
    attack = PGD(eps=8, steps=2, restarts=3)
    best, question = run(attack, model, batch), ask(attack, model, batch)

    def loss(images):
        return question.losses(images, 0, 0)

    for restart in range(3):
        single = PGD(eps=8, steps=2, restart_offset=restart)(model, batch)
        assert (loss(best.inputs) >= loss(single) - 1e-3).all()
    assert best.stats.grad_evals == 2 * 2 * 3


def test_eot_averages_fresh_noise(make_detector):
    """With more draws, gradients of a randomised model agree more with each other."""
    model = make_detector('retinanet', 'diffusion', noise='fresh', timestep=400)
    batch = batch_of()
    image = [batch['inputs'][0].float()]

    def agreement(eot):
        question = ask(PGD(eot=eot), model, batch)
        pair = [question.gradients(image, 0, step)[0][0] for step in (0, 1000)]
        return torch.cosine_similarity(pair[0].flatten(), pair[1].flatten(), dim=0)

    assert agreement(16) > agreement(1)
    assert run(PGD(steps=2, eot=3), model, batch).stats.grad_evals == 6


def test_a_model_that_blocks_gradients_is_named(make_detector):
    model = make_detector('retinanet', 'resnet')
    forward = model.backbone.forward
    model.backbone.forward = lambda x: tuple(f.detach() for f in forward(x))
    with pytest.raises(GradientBlocked, match='no attack can see through it'):
        PGD()(model, batch_of())
