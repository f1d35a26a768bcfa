"""A prior of handwritten digits as classifier, beside a CNN, under exact gradients.

Trained from nothing in about half a minute of one core; both numbers are printed.
"""

import pytest
import torch
import torch.nn.functional as F
from conftest import run
from mmengine.model import BaseModule
from mmengine.registry import DefaultScope
from torch import nn

from mmdiff import PGD, DiffusionModel
from mmdiff.attacks import APGD
from mmdiff.models import PurifiedModel
from mmdiff.registry import MODELS

pytest.importorskip('mmpretrain')
datasets = pytest.importorskip(
    'sklearn.datasets', reason='its digits are the data: pip install scikit-learn'
)
from mmpretrain.structures import DataSample  # noqa: E402

pytestmark = pytest.mark.slow
EPS = 32  # of 255
PRIOR = dict(
    type='UNet2DModel',
    sample_size=4,
    in_channels=12,
    out_channels=12,
    block_out_channels=(32,),
    layers_per_block=1,
    norm_num_groups=8,
    down_block_types=('DownBlock2D',),
    up_block_types=('UpBlock2D',),
    num_class_embeds=10,
    add_attention=False,
    resnet_time_scale_shift='scale_shift',
)
SCHEDULE = dict(beta_schedule='squaredcos_cap_v2', prediction_type='v_prediction')


@MODELS.register_module()
class DigitsCNN(BaseModule):
    """Two convolutions of 8x8 digits."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU()
        )

    def forward(self, x):
        return (self.layers(x),)


@pytest.fixture(scope='module')
def digits():
    """Images in 0..255, (1797, 3, 8, 8), and their classes, in a fixed order."""
    data = datasets.load_digits()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(data.images)[order].float() * 255 / 16
    labels = torch.from_numpy(data.target)[order]
    return images[:, None].expand(-1, 3, -1, -1).contiguous(), labels


def fit(parameters, loss_of, steps, rate):
    """Adam with one cycle of the rate."""
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2 * rate, steps)
    for _ in range(steps):
        loss = loss_of(torch.randint(1500, (64,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@pytest.fixture(scope='module')
def prior(digits, tmp_path_factory):
    """Folder of a class-conditional prior of the first 1500 digits."""
    images, labels = digits[0] / 127.5 - 1, digits[1]
    torch.manual_seed(0)
    model = DiffusionModel.from_pretrained(PRIOR, SCHEDULE).train()

    def loss_of(rows):
        times, noise = model.sample_times(64), torch.randn(64, 3, 8, 8)
        return model.diffusion_loss(images[rows], times, noise, labels[rows]).mean()

    fit(model.parameters(), loss_of, steps=1200, rate=2e-3)
    folder = tmp_path_factory.mktemp('prior')
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope='module')
def cnn(digits):
    images, labels = digits[0] / 127.5 - 1, digits[1]
    torch.manual_seed(0)
    preprocessor = dict(
        type='ClsDataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(
            dict(
                type='mmpretrain.ImageClassifier',
                data_preprocessor=preprocessor,
                backbone=dict(type='mmdiff.DigitsCNN'),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
            )
        )

    def loss_of(rows):
        return F.cross_entropy(model(images[rows]), labels[rows])

    fit(model.parameters(), loss_of, steps=600, rate=5e-3)
    return model.eval()


def diffusion_classifier(prior, num_levels, **settings):
    levels = dict(num_levels=num_levels)
    cfg = dict(type='mmdiff.DiffusionClassifier', model=prior, levels=levels)
    return MODELS.build({**cfg, 'num_classes': 10, 'chunk_size': 512, **settings})


def batch_of(digits, count):
    """Digits that nobody was trained on."""
    images, labels = (part[1500 : 1500 + count] for part in digits)
    samples = [DataSample().set_gt_label(int(label)) for label in labels]
    for i, sample in enumerate(samples):
        sample.set_metainfo(dict(img_id=i))
    return dict(inputs=list(images), data_samples=samples)


def accuracy(model, batch, inputs=None):
    samples = [sample.clone() for sample in batch['data_samples']]
    given = dict(inputs=inputs or batch['inputs'], data_samples=samples)
    right = [s.pred_label == s.gt_label for s in model.test_step(given)]
    return torch.stack(right).float().mean().item()


def test_clean_and_attacked_beside_a_cnn(digits, prior, cnn):
    batch = batch_of(digits, 40)
    models = dict(cnn=cnn, diffusion=diffusion_classifier(prior, 8))
    clean, attacked, noisy = {}, {}, {}
    for name, model in models.items():
        clean[name] = accuracy(model, batch)
        result = run(PGD(eps=EPS, steps=10), model, batch)
        assert result.stats.zero_grads == 0
        attacked[name] = accuracy(model, batch, result.inputs)
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, (40, 3, 8, 8), generator=generator) * 2 - 1
        moved = [(x + EPS * s).clamp(0, 255) for x, s in zip(batch['inputs'], signs)]
        noisy[name] = accuracy(model, batch, moved)
        print(
            f'\n{name}: clean {clean[name]:.3f}, PGD-10 at {EPS}/255 '
            f'{attacked[name]:.3f}, random signs {noisy[name]:.3f}'
        )
    assert min(clean.values()) > 0.85  # chance is 0.1
    # The gradient finds what noise of the same size does not.
    assert all(attacked[name] < noisy[name] - 0.2 for name in models)


def test_elimination_agrees_with_the_full_sum_for_an_eighth_of_the_passes(
    digits, prior
):
    batch = batch_of(digits, 100)
    predictions = {}
    for rule in (None, True):
        model = diffusion_classifier(prior, 80, elimination=rule)
        samples = [sample.clone() for sample in batch['data_samples']]
        given = dict(inputs=batch['inputs'], data_samples=samples)
        predictions[rule] = model.test_step(given)
    same = [
        int(a.pred_label) == int(b.pred_label) for a, b in zip(*predictions.values())
    ]
    calls = [sample.unet_calls for sample in predictions[True]]
    print(f'\nthe same for {sum(same)} of 100, {sum(calls) / 100:.1f} of 800 passes')
    assert sum(same) >= 99
    assert sum(calls) / 100 <= 800 / 8


@pytest.mark.parametrize('kind', ['cnn', 'diffusion'])
def test_larger_budgets_leave_less_and_a_large_one_nothing(digits, prior, cnn, kind):
    model = cnn if kind == 'cnn' else diffusion_classifier(prior, 8)
    batch = batch_of(digits, 12)
    left = [
        accuracy(model, batch, run(PGD(eps=eps, steps=10), model, batch).inputs)
        for eps in (16, 32, 64)
    ]
    print(f'\n{kind} under PGD-10 at 16, 32 and 64/255: {left}')
    assert left[0] >= left[1] >= left[2] and left[2] <= 1 / 12


@pytest.mark.parametrize('kind', ['cnn', 'diffusion'])
def test_the_ratio_of_logits_attacks_a_trained_classifier(digits, prior, cnn, kind):
    """APGD on DLR leaves about what it leaves on the cross-entropy."""
    model = cnn if kind == 'cnn' else diffusion_classifier(prior, 8)
    batch = batch_of(digits, 20)
    left = {
        name: accuracy(
            model,
            batch,
            run(APGD(eps=EPS, steps=10, objective=name), model, batch).inputs,
        )
        for name in ('dlr', 'ce')
    }
    print(f'\n{kind} under APGD-10 at {EPS}/255: {left}')
    assert left['dlr'] < accuracy(model, batch) - 0.5
    assert abs(left['dlr'] - left['ce']) < 0.2


def test_likelihood_maximisation_under_its_exact_gradient(digits, prior, cnn):
    """The identity's gradient leaves more than the exact one, and more steps less."""
    batch = batch_of(digits, 40)

    def shield(gradient):
        purifier = dict(
            type='mmdiff.LikelihoodMaximization',
            model=prior,
            condition=0,
            steps=5,
            eta=EPS,
            gradient=gradient,
        )
        return PurifiedModel(cnn, purifier).eval()

    left, risen = {}, {}
    for gradient, steps in (('bpda', 20), ('exact', 5), ('exact', 20)):
        model = shield(gradient)
        result = run(PGD(eps=EPS, steps=steps), model, batch)
        left[gradient, steps] = accuracy(model, batch, result.inputs)
        risen[gradient, steps] = sum(result.losses)
    print(
        f'\nlikelihood maximisation before the CNN, PGD at {EPS}/255: {left}, {risen}'
    )
    assert risen['exact', 20] > risen['exact', 5]
    assert risen['exact', 20] > 0.99 * risen['bpda', 20]
    assert left['exact', 20] <= left['bpda', 20] + 1 / 40
    assert left['exact', 20] < accuracy(model, batch) - 0.4


def test_less_the_denoising_error_attacked_digits_stay_likelier(digits, prior, cnn):
    """The more it weighs, the lower it is, and the less the attack is one."""
    batch = batch_of(digits, 20)
    purifier = dict(
        type='mmdiff.LikelihoodMaximization', model=prior, condition=0, eta=EPS
    )
    model = PurifiedModel(cnn, purifier).eval()
    shield = model.data_preprocessor
    error = shield.purifier.denoising_error(10, None, 0)
    errors, left = {}, {}
    for multiplier in (0, 0.1, 1, 10, 100):
        settings = dict(type='Lagrange', multiplier=multiplier)
        attack = PGD(eps=EPS, steps=10, objective=settings if multiplier else 'ce')
        inputs = run(attack, model, batch).inputs
        errors[multiplier] = shield.measure(inputs, error).mean().item()
        left[multiplier] = accuracy(model, batch, inputs)
    clean = shield.measure(batch['inputs'], error).mean().item()
    print(f'\ndenoising error by multiplier: {errors}, clean {clean:.4f}, left {left}')
    assert errors[100] < errors[10] < errors[1] < errors[0] - 0.01
    assert left[1] < accuracy(model, batch) - 0.4 < left[100]
