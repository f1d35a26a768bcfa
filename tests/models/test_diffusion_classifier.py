"""A prior as a classifier: modes, gradients, attacks, the test loop, call counts."""

import json

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY_UNET, run
from mmengine.config import Config
from mmengine.runner import Runner

from mmdiff import PGD, DiffusionModel
from mmdiff.attacks import APGD, oracle_of
from mmdiff.diffusion.multihead import MultiHeadDiffusionModel
from mmdiff.registry import MODELS

pytest.importorskip('mmpretrain')
from mmpretrain.structures import DataSample  # noqa: E402

CLASSES = 4
SOURCE = {**TINY_UNET, 'sample_size': 16, 'num_class_embeds': CLASSES}
LEVELS = dict(num_levels=3)


def build(source=SOURCE, levels=LEVELS, **kwargs):
    torch.manual_seed(0)
    cfg = dict(type='mmdiff.DiffusionClassifier', model=source, levels=levels, **kwargs)
    model = MODELS.build(cfg)
    for parameter in model.prior.unet.class_embedding.parameters():
        parameter.data *= 3  # classes that differ
    return model.eval()


def batch(count=2):
    generator = torch.Generator().manual_seed(1)
    shape = (count, 3, 16, 16)
    inputs = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    samples = [DataSample().set_gt_label(i % CLASSES) for i in range(count)]
    for i, sample in enumerate(samples):
        sample.set_metainfo(dict(img_id=i))
    return dict(inputs=list(inputs), data_samples=samples)


@pytest.fixture(scope='module')
def model():
    return build()


def preprocessed(model):
    return model.data_preprocessor(batch(), training=False)


def test_all_modes_are_about_the_same_logits(model):
    data = preprocessed(model)
    assert data['inputs'].min() >= -1 and data['inputs'].max() <= 1
    logits = model(data['inputs'])
    assert torch.allclose(
        logits, 768 * model.likelihood.class_logits(data['inputs']), rtol=1e-5
    )
    samples = model(**data, mode='predict')
    for sample, row in zip(samples, logits):
        assert torch.allclose(sample.pred_score, row.softmax(0), atol=1e-4)
        assert sample.pred_label.item() == row.argmax().item()
        assert sample.unet_calls == 3 * CLASSES and sample.img_id in (0, 1)
    labels = torch.tensor([0, 1])
    loss = model(**data, mode='loss')['loss']
    assert loss.item() == pytest.approx(
        F.cross_entropy(logits, labels).item(), rel=1e-4
    )
    assert not model.train().prior.training and not model.prior.unet.training
    assert not any(p.requires_grad for p in model.parameters())
    model.eval()


def test_the_gradient_of_an_attack_is_exact(model):
    """Through preprocessor, K x T passes and logits, to pixels of 0..255."""
    oracle, given = oracle_of(model), batch(1)
    assert oracle.task == 'classification' and oracle.num_classes == CLASSES
    image = given['inputs'][0].double()
    model = build(chunk_size=5).double()
    model.data_preprocessor.double()

    def score(pixels):
        # torch's own: mmengine's casts to float32
        x = (pixels.flip(0) - 127.5) / 127.5
        return model(x[None])[0, 2]

    leaf = image.clone().requires_grad_()
    (grad,) = torch.autograd.grad(score(leaf), leaf)
    direction = torch.randn(image.shape, dtype=torch.float64)
    with torch.no_grad():
        up, down = score(image + 1e-2 * direction), score(image - 1e-2 * direction)
    slope = ((up - down) / 2e-2).item()
    assert (grad * direction).sum().item() == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize(
    'attack',
    [PGD(eps=16, steps=3), APGD(eps=16, steps=4, objective='dlr')],
    ids=lambda attack: attack.name,
)
def test_attacks_ascend_and_leave_the_model_as_it_was(model, attack):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    result = run(attack, model, batch())
    delta = torch.stack(result.inputs) - torch.stack(batch()['inputs'])
    assert 0 < delta.abs().max() <= 16 + 1e-3
    losses = result.stats.losses
    assert losses[max(losses)] > losses[0]
    assert result.stats.zero_grads == 0
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    alone = dict(batch(), inputs=batch()['inputs'][:1])
    alone['data_samples'] = batch()['data_samples'][:1]
    same = (run(attack, model, alone).inputs[0] - result.inputs[0]).abs() < 1e-2
    assert same.float().mean() > 0.95


def test_tiny_logits_hide_the_cross_entropy_and_not_the_dlr():
    """Of the code of the paper: means of squares times small weights."""
    tiny, scaled = build(logit_scale=1e-9), build()
    labels = torch.tensor([0, 1])
    slopes = {}
    for name, model in (('tiny', tiny), ('scaled', scaled)):
        x = preprocessed(model)['inputs'].requires_grad_()
        loss = F.cross_entropy(model(x), labels, reduction='none')
        slopes[name] = torch.autograd.grad(loss.sum(), x)[0].abs().max().item()
        if name == 'tiny':  # not one bit of the classes is left in it
            assert torch.allclose(loss, torch.tensor(CLASSES).float().log(), rtol=1e-6)
    assert slopes['tiny'] < 1e-6 * slopes['scaled']
    ascended = {}
    for name, model in (('tiny', tiny), ('scaled', scaled)):
        result = run(APGD(eps=16, steps=5, objective='dlr'), model, batch())
        losses = result.stats.losses
        ascended[name] = losses[max(losses)] - losses[0]
    # TINY of the ratio's denominator is the one thing that a scale could meet.
    assert ascended['tiny'] > 0.5 * ascended['scaled'] > 0
    plain = run(APGD(eps=16, steps=5, objective='ce'), tiny, batch()).stats.losses
    assert plain[max(plain)] == pytest.approx(plain[0], abs=1e-6)


def test_elimination_is_of_predictions_alone():
    model = build(levels=dict(num_levels=40), elimination=dict(min_levels=4))
    plain = build(levels=dict(num_levels=40))
    data, sizes = preprocessed(model), []
    model.prior.unet.register_forward_pre_hook(lambda _, x: sizes.append(len(x[0])))
    samples = model(**data, mode='predict')
    calls = [sample.unet_calls for sample in samples]
    assert sum(calls) == sum(sizes) and max(calls) <= 40 * CLASSES
    for sample, other in zip(samples, plain(**preprocessed(plain), mode='predict')):
        assert sample.pred_label == other.pred_label
    sizes.clear()
    with torch.no_grad():
        assert torch.allclose(model(data['inputs']), plain(data['inputs']), rtol=1e-4)
    assert sum(sizes) == 2 * 40 * CLASSES
    x = data['inputs'].requires_grad_()
    assert torch.autograd.grad(model(x)[:, 0].sum(), x)[0].abs().max() > 0


def test_a_multi_head_prior_takes_an_eighth_of_the_passes(tmp_path):
    source = {**TINY_UNET, 'sample_size': 16, 'num_class_embeds': 10}
    teacher = DiffusionModel.from_pretrained(source)
    MultiHeadDiffusionModel.from_teacher(teacher).save_pretrained(tmp_path)
    cfg = dict(type='mmdiff.DiffusionClassifier', levels=LEVELS)
    heads = MODELS.build({**cfg, 'model': str(tmp_path)})
    naive = MODELS.build({**cfg, 'model': source})
    (few, _), (many, _) = (m(**preprocessed(m), mode='predict') for m in (heads, naive))
    assert few.unet_calls == 3 <= many.unet_calls / 8 and many.unet_calls == 30
    with pytest.raises(ValueError, match='elimination saves nothing'):
        MODELS.build({**cfg, 'model': str(tmp_path), 'elimination': True})


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(num_classes=100), 'num_classes=100 and the prior has 4 classes'),
        (dict(model=TINY_UNET), 'needs a class-conditional one'),
        (dict(levels=dict(times=[10, 2000])), 'timestep=2000 is out of range'),
        (dict(levels=dict(num_noise=0)), 'num_noise=0 leaves no noise to predict'),
        (dict(levels=dict(num_levels=0)), 'num_levels=0 leaves no noise to predict'),
        (dict(logit_scale=0.0), 'logit_scale=0.0 must be above 0'),
        (dict(chunk_size=0), 'chunk_size=0 must be at least 1'),
        (dict(data_preprocessor=dict(mean=[0] * 3, std=[255] * 3)), r'in \[-1, 1\]'),
        (dict(data_preprocessor=dict()), r'set mean=\[127.5\]'),
    ],
)
def test_mistakes_are_one_sentence(settings, message):
    cfg = dict(type='mmdiff.DiffusionClassifier', model=SOURCE, levels=LEVELS)
    with pytest.raises(ValueError, match=message) as caught:
        MODELS.build({**cfg, **settings})
    assert '\n' not in str(caught.value)


def test_grey_images_and_unknown_modes_are_refused(model):
    with pytest.raises(ValueError, match='load them in colour'):
        model(torch.zeros(1, 1, 16, 16))
    with pytest.raises(ValueError, match="mode='features' is unknown"):
        model(torch.zeros(1, 3, 16, 16), mode='features')


def test_the_robust_test_loop_runs_and_finds_nothing_wrong(tmp_path):
    """Fixed noise and exact gradients: no flag of cut or random ones."""
    generator = np.random.default_rng(0)
    for name in 'abcd':
        (tmp_path / 'data' / name).mkdir(parents=True)
        pixels = generator.integers(0, 256, (16, 16, 3)).astype(np.uint8)
        cv2.imwrite(str(tmp_path / 'data' / name / '0.png'), pixels)
    dataset = dict(
        type='CustomDataset',
        data_root=str(tmp_path / 'data'),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
    )
    sampler = dict(type='DefaultSampler', shuffle=False)
    loader = dict(batch_size=4, num_workers=0, sampler=sampler, dataset=dataset)
    cfg = dict(
        model=dict(
            type='mmdiff.DiffusionClassifier',
            model=SOURCE,
            num_classes=CLASSES,
            levels=dict(num_levels=2),
            elimination=dict(min_levels=2),
        ),
        default_scope='mmpretrain',
        work_dir=str(tmp_path / 'work'),
        test_dataloader=loader,
        test_evaluator=dict(type='Accuracy', topk=(1,)),
        test_cfg=dict(
            type='mmdiff.RobustTestLoop',
            attacks=[dict(type='mmdiff.PGD', eps=16, steps=3)],
            sanity_images=2,
            name='tiny',
        ),
        log_level='WARNING',
        randomness=dict(seed=0),
        experiment_name=tmp_path.name,
    )
    metrics = Runner.from_cfg(Config(cfg)).test()
    assert 'pgd_total_eps16/accuracy/top1' in metrics
    report = json.loads((tmp_path / 'work' / 'robustness.json').read_text())
    clean, attacked = report['results']
    assert attacked['cost']['grad_evals'] == 4 * 3
    codes = {flag['code'] for row in report['results'] for flag in row['flags']}
    assert not codes & {'gradient_cut', 'not_as_reported', 'random', 'reads_truth'}
    assert clean['image_score'] >= attacked['image_score']
