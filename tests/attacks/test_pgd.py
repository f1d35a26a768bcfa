"""PGD's gradient and its options."""

import pytest
import torch
from conftest import CONFIGS, batch_of

from mmdiff import PGD
from mmdiff.attacks import APGD, GradientBlocked
from mmdiff.attacks.gradient_attack import Trace
from mmdiff.attacks.objectives import objective, to_input_scale


@pytest.mark.parametrize('backbone', ['resnet', 'diffusion'])
@pytest.mark.parametrize('head', ['retinanet', 'fcos'])
def test_gradient_is_exact(make_detector, head, backbone):
    """Finite differences through preprocessor, backbone, neck, head and loss.

    Two-stage heads choose proposals: their loss is only piecewise differentiable.
    """
    model = make_detector(head, backbone)
    batch = batch_of()
    attack = PGD()
    images = [x.float() for x in batch['inputs']]
    samples = [to_input_scale(s, 'original') for s in batch['data_samples']]
    with torch.enable_grad():
        (grad,), _ = attack._gradient(model, images, samples, [0])
    direction = grad.sign()
    step = 0.05

    def loss(sign):
        moved = [images[0] + sign * step * direction]
        with torch.no_grad():
            return attack._losses(model, moved, samples, [0]).item()

    slope = (loss(1) - loss(-1)) / (2 * step)
    assert slope == pytest.approx((grad * direction).sum().item(), rel=0.05)


def test_gradient_reaches_every_pixel(make_detector):
    model = make_detector('faster-rcnn', 'diffusion')
    batch = batch_of()
    samples = [to_input_scale(s, 'original') for s in batch['data_samples']]
    (grad,), _ = PGD()._gradient(model, [batch['inputs'][0].float()], samples, [0])
    assert (grad != 0).float().mean() > 0.9


@pytest.mark.parametrize('head', CONFIGS)
def test_more_steps_more_loss(make_detector, head):
    model = make_detector(head, 'diffusion')
    ends = []
    for steps in (1, 4, 16):
        attack = PGD(eps=8, steps=steps + 1, proposals='fixed')  # sampled alike
        attack(model, batch_of())
        ends.append(attack.stats.losses[steps])
    assert ends[0] < ends[2] and ends[1] < ends[2]


def test_steps_fall_to_one_part_unless_given():
    x = torch.full((3, 8, 8), 100.0)
    for step_size, sizes in ((None, [8, 6, 4, 2]), (1.5, [1.5] * 4)):
        attack = PGD(eps=8, steps=4, step_size=step_size)
        steps = [
            attack.update(Trace(x, x, x), torch.ones_like(x), 0.0, k) for k in range(4)
        ]
        assert [(adv - x).max().item() for adv in steps] == sizes


def test_heads_sample_anew_at_each_step_only_where_proposals_move(make_detector):
    model, batch = make_detector('faster-rcnn', 'resnet'), batch_of()
    for kind, proposals, count in (
        (PGD, 'moving', 3),
        (PGD, 'fixed', 1),
        (APGD, 'moving', 1),  # it compares objectives from step to step
    ):
        seen = set()

        class Watched(kind):
            def _gradient(self, model, adv, samples, seeds, *args, seen=seen):
                seen.update(seeds)
                return super()._gradient(model, adv, samples, seeds, *args)

        Watched(eps=4, steps=3, proposals=proposals)(model, batch)
        assert len(seen) == count


def test_restarts_keep_the_highest_loss(make_detector):
    """Each image's loss is at least that of every single restart."""
    model = make_detector('retinanet', 'resnet')
    batch = batch_of([(3, 64, 96)] * 2, (2, 3))
    samples = [to_input_scale(s, 'original') for s in batch['data_samples']]
    attack = PGD(eps=8, steps=2, restarts=3)
    best = attack(model, batch)

    def loss(images):
        with torch.no_grad():
            return attack._losses(model, images, samples, [0, 0])

    for restart in range(3):

        class One(PGD):
            def seed_of(self, image_id, *what, restart=restart):
                if what and what[0] == 0:
                    what = (restart, *what[1:])
                return super().seed_of(image_id, *what)

        single = One(eps=8, steps=2)(model, batch)
        assert (loss(best) >= loss(single) - 1e-3).all()
    assert attack.stats.grad_evals == 2 * 2 * 3


def test_eot_averages_fresh_noise(make_detector):
    """With more draws, gradients of a randomised model agree more with each other."""
    model = make_detector('retinanet', 'diffusion', noise='fresh', timestep=400)
    batch = batch_of()
    samples = [to_input_scale(s, 'original') for s in batch['data_samples']]
    image = [batch['inputs'][0].float()]

    def agreement(eot):
        attack = PGD(eot=eot)
        pair = [attack._gradient(model, image, samples, [s])[0][0] for s in (0, 1000)]
        return torch.cosine_similarity(pair[0].flatten(), pair[1].flatten(), dim=0)

    assert agreement(16) > agreement(1)
    attack = PGD(steps=2, eot=3)
    attack(model, batch)
    assert attack.stats.grad_evals == 6


def test_a_model_that_blocks_gradients_is_named(make_detector):
    model = make_detector('retinanet', 'resnet')
    forward = model.backbone.forward
    model.backbone.forward = lambda x: tuple(f.detach() for f in forward(x))
    with pytest.raises(GradientBlocked, match='no attack can see through it'):
        PGD()(model, batch_of())


def test_objectives_take_their_losses():
    losses = dict(
        loss_rpn_cls=[torch.tensor(1.0), torch.tensor(2.0)],
        loss_cls=torch.tensor(10.0),
        loss_bbox=torch.tensor([100.0, 300.0]),
        acc=torch.tensor(50.0),
    )
    assert objective(losses, 'total') == 1 + 2 + 10 + 200
    assert objective(losses, 'cls') == 10
    assert objective(losses, 'reg') == 200
    with pytest.raises(ValueError, match="no loss for objective='reg'"):
        objective(dict(loss=torch.tensor(1.0)), 'reg')


def test_a_classifier_is_attacked_too():
    """One threat model for any mm model: inputs are stacked, labels have no scale."""
    from conftest import TINY_UNET
    from mmengine.registry import DefaultScope
    from mmpretrain.registry import MODELS
    from mmpretrain.structures import DataSample

    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(
            dict(
                type='ImageClassifier',
                data_preprocessor=dict(
                    type='ClsDataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3
                ),
                backbone=dict(
                    type='mmdiff.DiffusionUNet',
                    model=TINY_UNET,
                    timestep=10,
                    out_indices=('mid',),
                ),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type='LinearClsHead', num_classes=4, in_channels=8),
            )
        ).eval()
    inputs = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    samples = [DataSample().set_gt_label(i) for i in range(2)]
    for i, sample in enumerate(samples):
        sample.set_metainfo(dict(img_id=i))
    attack = PGD(eps=8, steps=5)
    adversarial = attack(model, dict(inputs=inputs, data_samples=samples))
    assert adversarial.shape == inputs.shape
    assert (adversarial - inputs).abs().amax((1, 2, 3)).tolist() == [8, 8]
    assert attack.stats.losses[4] > attack.stats.losses[0]
