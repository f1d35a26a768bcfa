"""The seam of tasks: every attack on a classifier, one forward for the whole batch."""

import pytest
import torch
import torch.nn.functional as F
from classifiers import logits_of, make_classifier, random_batch
from conftest import TINY_UNET, ask, run

from mmdiff import DAG, PGD
from mmdiff.attacks import APGD, MIM, RandomNoise, Square, oracle_of

mmpretrain = pytest.importorskip('mmpretrain')
CLASSES = 4


@pytest.fixture(params=['resnet', 'diffusion'])
def model(request):
    if request.param == 'resnet':
        backbone = dict(type='ResNet', depth=18, base_channels=8, stem_channels=8)
        channels = 64
    else:
        backbone = dict(
            type='mmdiff.DiffusionUNet',
            model=TINY_UNET,
            timestep=10,
            out_indices=('mid',),
        )
        channels = 8
    return make_classifier(CLASSES, backbone=backbone, channels=channels)


@pytest.fixture
def batch():
    return random_batch()


def test_the_objective_is_the_cross_entropy_of_the_test_time_logits(model, batch):
    question = ask(PGD(), model, batch)
    images = [x.float() for x in batch['inputs']]
    expected = F.cross_entropy(
        logits_of(model, images), torch.arange(3), reduction='none'
    )
    assert torch.allclose(question.losses(images, 0, 0), expected, atol=1e-6)
    model.train()
    model.backbone.train()
    assert torch.allclose(question.losses(images, 0, 0), expected, atol=1e-6)


def test_random_starts_do_not_depend_on_where_the_data_lie(model):
    def starts(folder):
        data = random_batch()
        for i, sample in enumerate(data['data_samples']):
            del sample.img_id
            sample.set_metainfo({'img_path': f'{folder}/{i}.png'})
        return run(PGD(steps=1), model, data).inputs

    first = starts('here/set/cat')
    assert torch.equal(first, starts('elsewhere/cat'))
    assert not torch.equal(first, starts('here/set/dog'))


def test_the_gradient_is_exact(model, batch):
    question = ask(PGD(), model, batch)
    images = [x.float() for x in batch['inputs']]
    grads, _ = question.gradients(images, 0, 0)
    for i, grad in enumerate(grads):
        direction, step = grad.sign(), 0.05
        moved = [
            [x + sign * step * direction if i == k else x for k, x in enumerate(images)]
            for sign in (1, -1)
        ]
        up, down = (question.losses(m, 0, 0)[i].item() for m in moved)
        slope = (grad * direction).sum().item()
        assert (up - down) / (2 * step) == pytest.approx(slope, rel=0.05)


def test_the_batch_is_one_forward(model, batch):
    calls = []
    forward = model.backbone.forward
    model.backbone.forward = lambda x: calls.append(len(x)) or forward(x)
    run(PGD(eps=8, steps=4), model, batch)
    assert calls == [3] * 5  # four gradients, one look at the end


@pytest.mark.parametrize(
    'attack',
    [
        PGD(eps=8, steps=3),
        PGD(eps=200, steps=3, norm='l2', restarts=2, eot=2),
        MIM(eps=8, steps=3),
        APGD(eps=8, steps=5, objective='ce'),
        Square(eps=8, steps=20),
        RandomNoise(eps=8),
    ],
    ids=lambda attack: f'{attack.name}-{attack.norm}',
)
def test_every_attack_keeps_its_promises(model, batch, attack):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    flags = [m.training for m in model.modules()]
    result = run(attack, model, batch)
    delta = result.inputs - batch['inputs']
    assert result.inputs.shape == batch['inputs'].shape
    assert result.inputs.min() >= 0 and result.inputs.max() <= 255
    sizes = [attack.budget.measure(d) for d in delta]
    assert all(0.4 < size <= attack.eps + 1e-3 for size in sizes)
    assert result.stats.changed == result.stats.images == 3
    if losses := result.stats.losses:
        assert losses[max(losses)] > losses[0]
    alone = dict(inputs=batch['inputs'][1:2], data_samples=batch['data_samples'][1:2])
    same = (run(attack, model, alone).inputs[0] - result.inputs[1]).abs() < 1e-2
    assert same.float().mean() > 0.98
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert flags == [m.training for m in model.modules()]
    assert all(p.requires_grad for p in model.head.parameters())


def test_mistakes_are_one_sentence(model, batch):
    with pytest.raises(ValueError, match="objective='vanishing' is none of classif"):
        PGD(objective='vanishing')(model, batch)
    with pytest.raises(ValueError, match='DAG attacks the boxes of detectors'):
        DAG(steps=1)(model, batch)
    del batch['data_samples'][0].gt_label
    with pytest.raises(ValueError, match='needs one true class for each image'):
        PGD()(model, batch)


def test_objectives_of_classifiers_are_refused_by_detectors(make_detector):
    from conftest import batch_of

    with pytest.raises(ValueError, match="objective='ce' is none of detection"):
        PGD(objective='ce')(make_detector('fcos', 'resnet'), batch_of())


def test_the_task_is_told_by_the_model(model, make_detector):
    assert oracle_of(model).task == 'classification'
    assert oracle_of(model).num_classes == CLASSES
    assert oracle_of(make_detector('fcos', 'resnet')).task == 'detection'
    assert not oracle_of(make_detector('fcos', 'resnet')).proposals_move
    assert oracle_of(make_detector('faster-rcnn', 'resnet')).proposals_move
