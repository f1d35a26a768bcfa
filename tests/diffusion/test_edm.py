import json
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from safetensors import safe_open

from mmdiff import DiffusionModel, config_path
from mmdiff.diffusion import EDMDiffusionModel
from mmdiff.diffusion.schedule import karras_sigmas
from mmdiff.models import DiffusionUNet

sys.path.insert(0, str(Path(__file__).parents[1] / 'data'))
from make_edm_reference import (  # noqa: E402
    CONFIGS,
    LABELS,
    OUT,
    SIGMAS,
    fill,
    inputs,
    pick,
)

TINY = dict(
    type='EDMPrecond',
    img_resolution=16,
    img_channels=3,
    model_type='SongUNet',
    model_channels=8,
    channel_mult=[1, 2],
    num_blocks=1,
    attn_resolutions=[8],
    label_dim=3,
    augment_dim=9,
)


@torch.no_grad()
def build(source=TINY, **kwargs):
    model = DiffusionModel.from_pretrained(source, **kwargs).eval()
    fill(model.unet)
    return model


def relative(value, reference):
    return ((value - reference).abs().max() / reference.abs().max()).item()


@pytest.mark.parametrize('kind', CONFIGS)
def test_network_agrees_with_the_reference(kind):
    """Names, every tap, and D with class, without, and with augmentation."""
    model = build(dict(type='EDMPrecond', **CONFIGS[kind]))
    unet, (x, augment) = model.unet, inputs(kind)
    labels = LABELS if model.num_classes else None
    taps = [info.name for info in model.feature_info]
    with torch.no_grad():
        found = model.features(x, SIGMAS, taps, labels)
        found['output'] = model.predict(x, SIGMAS, labels)
        found['no-class'] = model.predict(x, SIGMAS)
        if unet.model.augment_dim:
            found['augmented'] = unet(x, SIGMAS, labels, augment)
            assert relative(found['augmented'], found['output']) > 1e-2
    with safe_open(OUT, 'pt') as file:
        assert '\n'.join(sorted(unet.state_dict())) == file.metadata()[kind]
        keys = {key for key in file.keys() if key.startswith(f'{kind}/')}  # noqa: SIM118
        assert keys == {f'{kind}/{name}' for name in found}
        for name, value in found.items():
            reference = file.get_tensor(f'{kind}/{name}')
            assert relative(pick(value, len(reference)), reference) < 1e-4, name
    height, width = x.shape[-2:]
    for name, channels, stride in model.feature_info:
        shape = (2, channels, height // stride, width // stride)
        assert tuple(found[name].shape) == shape


def test_no_module_past_the_deepest_tap_runs():
    model, ran = build(), []
    for name, module in model.unet.model.named_modules():
        if name.count('.') == 1:
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    model.features(torch.zeros(1, 3, 16, 16), 1.0, ['down.0', 'down.0.0'])
    assert ran == ['enc.16x16_conv', 'enc.16x16_block0', 'enc.8x8_down']


@pytest.mark.parametrize('kind', CONFIGS)
@pytest.mark.parametrize('tap', ['down.0', 'down.1.0', 'mid', 'up.0', 'up.1'])
def test_truncation_leaves_the_taps_and_no_idle_weight(kind, tap):
    model = build(dict(type='EDMPrecond', **CONFIGS[kind]))
    x, _ = inputs(kind)
    labels = LABELS if model.num_classes else None
    whole = model.features(x, SIGMAS, [tap], labels)[tap]
    model.truncate([tap])
    cut = model.features(x, SIGMAS, [tap], labels)[tap]
    assert torch.equal(cut, whole)
    assert model.feature_info[-1].name == tap
    cut.square().sum().backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None]
    assert not idle, 'DDP waits for these'
    with pytest.raises(RuntimeError, match='truncated'):
        model.predict(x, SIGMAS, labels)


def test_checkpointing_gives_the_same_gradient():
    model = build()
    x = torch.randn(1, 3, 16, 16, requires_grad=True)
    gradients = []
    for _ in range(2):
        loss = model.features(x, 1.0, ['up.1'])['up.1'].square().sum()
        gradients += torch.autograd.grad(loss, x)
        model.enable_gradient_checkpointing()
    assert torch.allclose(*gradients, rtol=1e-5)


def finite_difference(function, x, tolerance):
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(x), x)
    assert gradient.abs().max() > 0
    direction = gradient / gradient.norm()
    step = 1e-3 if x.dtype == torch.float64 else 1e-2
    with torch.no_grad():
        high, low = function(x + step * direction), function(x - step * direction)
    slope = ((high - low) / (2 * step)).item()
    assert slope == pytest.approx(gradient.norm().item(), rel=tolerance)


@pytest.mark.parametrize('sigma', [0.1, 5.0])
def test_gradient_through_the_denoiser(sigma):
    model = build().double()
    x = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    weight = torch.randn_like(x)
    label = torch.tensor([1])
    finite_difference(
        lambda x: (model.predict_x0(x, sigma, label) * weight).sum(), x, 1e-5
    )


@pytest.mark.parametrize('condition', [None, 2])
def test_backbone(condition):
    torch.manual_seed(0)
    backbone = DiffusionUNet(
        TINY, sigma=0.5, out_indices=('down.0.0', 'up.1', 'mid'), condition=condition
    )
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    x = torch.rand(1, 3, 16, 32) * 2 - 1
    features = backbone(x)
    assert [f.shape[1:] for f in features] == [(8, 16, 32), (8, 16, 32), (16, 8, 16)]
    weights = [torch.randn_like(f) for f in features]

    def total(x):
        return sum((f * w).sum() for f, w in zip(backbone(x), weights))

    finite_difference(total, x, 3e-2)
    # What the backbone sees is x + sigma eps.
    eps = backbone._draw(x, 0)
    cond = None if condition is None else torch.tensor([condition])
    direct = backbone.model.features(x + 0.5 * eps, 0.5, ['mid'], cond)['mid']
    assert torch.allclose(features[2], direct, atol=1e-6)


@pytest.mark.parametrize(
    'args, words',
    [
        (dict(timestep=10), 'give sigma'),
        (dict(timestep=10, sigma=1.0), 'alone'),
        (dict(), 'give sigma'),
        (dict(sigma=0.0), 'out of range'),
        (dict(sigma=float('inf')), 'out of range'),
        (dict(sigma=float('nan')), 'out of range'),
        (dict(sigma=1.0, out_indices='up.7'), 'no tap'),
    ],
)
def test_backbone_errors(args, words):
    with pytest.raises(ValueError, match=words):
        DiffusionUNet(TINY, **args)


@pytest.mark.parametrize(
    'change, words',
    [
        (dict(model_type='VGG'), 'model_type'),
        (dict(encoder_type='skip'), "encoder_type='skip' is unknown"),
        (dict(decoder_type='skip'), 'decoder_type'),
        (dict(wings=2), 'wings'),
        (dict(img_channels=1), 'RGB'),
    ],
)
def test_config_errors(change, words):
    with pytest.raises(ValueError, match=words):
        DiffusionModel.from_pretrained({**TINY, **change})


def test_call_errors():
    model = build()
    x = torch.zeros(2, 3, 16, 16)
    for labels in ([0, 4], [-1, 0]):
        with pytest.raises(ValueError, match='out of range'):
            model.predict(x, 1.0, torch.tensor(labels))
    with pytest.raises(ValueError, match='pad_size_divisor=2'):
        model.predict(torch.zeros(1, 3, 15, 16), 1.0)
    with pytest.raises(ValueError, match='unconditional'):
        build({**TINY, 'label_dim': 0}).predict(x, 1.0, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match='schedule'):
        build(schedule=dict(beta_schedule='linear'))
    with pytest.raises(ValueError, match='guidance'):
        model.sample((1, 16, 16), 2, cond=torch.tensor([0]), guidance=2.0)


def test_no_class_is_the_zero_vector():
    model = build({**TINY, 'label_dropout': 0.1})
    x = torch.randn(2, 3, 16, 16)
    none = model.predict(x, 1.0)
    assert torch.equal(none, model.predict(x, 1.0, torch.tensor([3, 3])))
    assert not torch.allclose(none, model.predict(x, 1.0, torch.tensor([0, 1])))
    assert (model.num_classes, model.null_class) == (3, 3)
    guided = model.sample((1, 16, 16), 2, cond=torch.tensor([0]), guidance=1.5)
    assert guided.shape == (1, 3, 16, 16) and torch.isfinite(guided).all()


def test_label_dropout_drops_in_training_only():
    model = build({**TINY, 'label_dropout': 1.0, 'dropout': 0.0})
    x, labels = torch.randn(2, 3, 16, 16), torch.tensor([0, 1])
    free = model.predict(x, 1.0)
    assert not torch.allclose(model.predict(x, 1.0, labels), free)
    assert torch.allclose(model.train().predict(x, 1.0, labels), free)


@pytest.mark.parametrize('kind', CONFIGS)
def test_saving_and_loading_is_exact(kind, tmp_path):
    model = build(dict(type='EDMPrecond', **CONFIGS[kind]))
    model.save_pretrained(tmp_path / 'prior')
    config = json.loads((tmp_path / 'prior' / 'config.json').read_text())
    assert config['_class_name'] == 'EDMPrecond' and 'sigma_max' not in config
    again = DiffusionModel.from_pretrained(str(tmp_path / 'prior')).eval()
    assert isinstance(again, EDMDiffusionModel)
    state = again.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    x, _ = inputs(kind)
    assert torch.equal(model.predict(x, SIGMAS), again.predict(x, SIGMAS))
    other = DiffusionModel.from_pretrained(str(tmp_path / 'prior'), random_weights=True)
    key = 'unet.model.map_layer0.weight'
    assert not torch.equal(other.state_dict()[key], state[key])
    config['model_channels'] *= 2
    (tmp_path / 'prior' / 'config.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match='do not fit'):
        DiffusionModel.from_pretrained(str(tmp_path / 'prior'))


def test_bfloat16_stays_near_fp32():
    config = {**TINY, 'embedding_type': 'fourier', 'channel_mult_noise': 2}
    exact, rough = build(config), build(config)
    for part in rough.children():
        part.to(torch.bfloat16)
    assert torch.equal(
        exact.unet.model.map_noise.freqs, rough.unet.model.map_noise.freqs
    )
    x = torch.randn(2, 3, 16, 16)
    a, b = exact.predict(x, 0.5), rough.predict(x, 0.5)
    assert b.dtype == torch.float32 and relative(b, a) < 0.05
    assert rough.features(x, 0.5, ['mid'])['mid'].dtype == torch.float32


class Gaussian(torch.nn.Module):
    """The exact denoiser of independent pixels N(mean, std^2), in the network's place.

    D(x; sigma) = (std^2 x + sigma^2 mean) / (std^2 + sigma^2).
    """

    def __init__(self, unet, mean=0.1, std=0.2):
        super().__init__()
        self.model, self.config, self.label_dim = unet.model, unet.config, 0
        self.sigma_min, self.sigma_max, self.sigma_data = 0.0, float('inf'), 0.5
        self.mean, self.std = mean, std

    def forward(self, x, sigma, labels=None):
        variance = sigma.view(-1, 1, 1, 1) ** 2
        return (self.std**2 * x + variance * self.mean) / (self.std**2 + variance)


def test_heun_sampler_draws_from_a_known_distribution():
    model = EDMDiffusionModel(Gaussian(build().unet))
    generator = torch.Generator().manual_seed(0)
    x = model.sample((8, 64, 64), 40, generator)
    assert x.mean().item() == pytest.approx(0.1, abs=0.005)
    assert x.std().item() == pytest.approx(0.2, rel=0.02)


def test_x0_and_noise_estimates_belong_together():
    model = build()
    x0, noise = torch.randn(2, 2, 3, 16, 16)
    x = model.add_noise(x0, SIGMAS, noise)
    sigma = SIGMAS.view(-1, 1, 1, 1)
    assert torch.allclose(x, x0 + sigma * noise)
    again = model.predict_x0(x, SIGMAS) + sigma * model.predict_noise(x, SIGMAS)
    assert torch.allclose(again, x, atol=1e-4)


def test_loss_is_the_papers():
    """At init F is about 0, so D = c_skip x and the loss has a closed form."""
    model = DiffusionModel.from_pretrained(TINY).eval()
    x0, noise = torch.randn(2, 2, 3, 16, 16)
    loss = model.diffusion_loss(x0, SIGMAS, noise)
    s, d = SIGMAS.view(-1, 1, 1, 1), 0.5
    skip = d**2 / (s**2 + d**2)
    weight = (s**2 + d**2) / (s * d) ** 2
    expected = (weight * (skip * (x0 + s * noise) - x0) ** 2).mean((1, 2, 3))
    assert torch.allclose(loss, expected, rtol=1e-3)
    # Of data with deviation sigma_data, every level then weighs 1.
    sigmas = torch.tensor([0.01, 1.0, 50.0])
    x0 = 0.5 * torch.randn(3, 3, 64, 64)
    loss = model.diffusion_loss(x0, sigmas, torch.randn(3, 3, 64, 64))
    assert torch.allclose(loss, torch.ones(3), rtol=0.05)


def test_training_times_are_log_normal():
    model = build()
    torch.manual_seed(0)
    log = model.sample_times(20000).log()
    assert log.mean().item() == pytest.approx(-1.2, abs=0.03)
    assert log.std().item() == pytest.approx(1.2, rel=0.02)
    levels = model.level_times(5)
    assert levels == sorted(levels) and levels[2] == pytest.approx(model.middle_time)


def test_training_learns():
    torch.manual_seed(0)
    model = DiffusionModel.from_pretrained({**TINY, 'dropout': 0.0})
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    x0, noise = torch.full((4, 3, 16, 16), 0.7), torch.randn(4, 3, 16, 16)
    t, losses = model.sample_times(4), []
    for _ in range(15):
        loss = model.diffusion_loss(x0, t, noise).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_sigma_range_of_the_config_bounds_sampling_and_times():
    model = build({**TINY, 'sigma_min': 0.01, 'sigma_max': 20.0})
    assert model.sigma_range == (0.01, 20.0)
    for sigma in (0.001, 30.0):
        with pytest.raises(ValueError, match='from 0.01 to 20.0'):
            model.check_time(sigma)
    sigmas = karras_sigmas(5, *build().sigma_range)
    assert sigmas[0].item() == pytest.approx(80) and len(sigmas) == 5
    assert sigmas[-1].item() == pytest.approx(0.002)


def test_sigma_of_the_cifar_config_is_the_fourth_of_eighteen():
    config = Config.fromfile(config_path('_base_/priors/edm-cifar10.py'))
    found = config.prior.backbone.sigma
    assert found == pytest.approx(karras_sigmas(18)[-4].item(), abs=5e-5)


def test_each_network_refuses_the_options_of_the_other():
    for change in (
        dict(model_type='DhariwalUNet', encoder_type='standard'),
        dict(model_type='DhariwalUNet', resample_filter=[1, 3, 3, 1]),
    ):
        with pytest.raises(ValueError, match='unexpected keyword') as caught:
            DiffusionModel.from_pretrained({**TINY, **change})
        assert '\n' not in str(caught.value)


def test_preconditioning_is_that_of_table_1():
    """c_skip x + c_out F is a denoiser of unit-variance input and target."""
    factors = build().unet.precondition(SIGMAS)
    sigma, data = SIGMAS.view(-1, 1, 1, 1), 0.5
    assert torch.allclose(factors.c_in**2 * (sigma**2 + data**2), torch.ones(1))
    # Variance of the target (x_0 - c_skip x) / c_out of data with deviation 0.5.
    rest = (1 - factors.c_skip) ** 2 * data**2 + factors.c_skip**2 * sigma**2
    assert torch.allclose(rest / factors.c_out**2, torch.ones(1))
    assert torch.allclose(factors.c_noise, SIGMAS.log() / 4)
