"""Shields by themselves: what they make of images, and of gradients."""

import weakref

import pytest
import torch
from conftest import TINY_UNET
from diffusers import DDIMScheduler

from mmdiff.diffusion import DiffusionModel
from mmdiff.diffusion.sampling import reverse_step
from mmdiff.models import DiffPure, LikelihoodMaximization, OneStepDenoiser
from mmdiff.models.purifiers.base import continue_to

EDM = dict(
    type='EDMPrecond',
    img_resolution=16,
    img_channels=3,
    model_type='SongUNet',
    model_channels=8,
    num_blocks=1,
)
LATENT = dict(
    type='LatentDiffusion',
    unet=dict(
        block_out_channels=(4, 8),
        norm_num_groups=2,
        down_block_types=('CrossAttnDownBlock2D', 'DownBlock2D'),
        up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D'),
        attention_head_dim=2,
        cross_attention_dim=8,
    ),
    vae=dict(
        block_out_channels=(4, 4),
        norm_num_groups=2,
        down_block_types=('DownEncoderBlock2D',) * 2,
        up_block_types=('UpDecoderBlock2D',) * 2,
    ),
)
PRIORS = {
    'ddpm': (TINY_UNET, dict(timestep=100)),
    'edm': (EDM, dict(sigma=0.3)),
    'latent': (LATENT, dict(timestep=100)),
}
KINDS = {
    'one-step': (OneStepDenoiser, {}),
    'ancestral': (DiffPure, dict(steps=3)),
    'ddim': (DiffPure, dict(steps=3, sampler='ddim')),
}


MAXIMISERS = {
    'momentum': dict(eta=None, step_size=0.02, momentum=0.5),
    'budget': dict(step_size=0.02, eta=4),
    'adam': dict(optimizer='adam', step_size=0.05, eta=None, noise_seed=1),
}


def maximiser(name='momentum', source=TINY_UNET, **kwargs):
    torch.manual_seed(0)
    args = {'steps': 2, **MAXIMISERS[name], **kwargs}
    purifier = LikelihoodMaximization(source, **args)
    for layer in ('conv_out', 'out_conv'):
        if hasattr(purifier.prior.unet, layer):  # give it an opinion
            getattr(purifier.prior.unet, layer).weight *= 8
    return purifier


def build(kind='one-step', prior='ddpm', **kwargs):
    torch.manual_seed(0)
    cls, args = KINDS[kind]
    source, time = PRIORS[prior]
    return cls(source, **{**time, **args, **kwargs})


def images(count=2, height=16, width=16, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(count, 3, height, width, generator=generator, dtype=torch.float64)
    return (1.4 * x - 0.7).to(dtype)  # little of what comes out is clipped


def slope_and_difference(purifier, x, step=1e-6):
    """Directional derivative of a random sum: by the gradient, and by a difference."""
    purifier.double()
    generator = torch.Generator().manual_seed(1)
    signs, along = (
        torch.randn(x.shape, generator=generator, dtype=x.dtype) for _ in range(2)
    )

    def total(x):
        torch.manual_seed(2)  # of fresh noise
        return (purifier(x) * signs).sum()

    x = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(total(x), x)
    with torch.no_grad():
        ends = [total(x + side * step * along).item() for side in (1, -1)]
    return (grad * along).sum().item(), (ends[0] - ends[1]) / (2 * step)


@pytest.mark.parametrize('noise', ['fixed', 'fresh'])
@pytest.mark.parametrize('prior', PRIORS)
@pytest.mark.parametrize('kind', KINDS)
def test_the_exact_gradient_is_the_slope(kind, prior, noise):
    """Through all steps, reflection included, for every kind of prior."""
    purifier = build(kind, prior, noise=noise)
    slope, difference = slope_and_difference(
        purifier, images(1, 15, 16, dtype=torch.float64)
    )
    assert slope == pytest.approx(difference, rel=1e-4) and abs(slope) > 0.1


@pytest.mark.parametrize('kind', KINDS)
def test_bpda_has_the_same_values_and_the_slope_of_the_identity(kind):
    exact, bpda = build(kind), build(kind, gradient='bpda')
    x = images().requires_grad_()
    assert torch.equal(exact(x), bpda(x))
    weights = torch.randn(x.shape)
    (grad,) = torch.autograd.grad((bpda(x) * weights).sum(), x)
    assert torch.equal(grad, weights)
    (grad,) = torch.autograd.grad((exact(x) * weights).sum(), x)
    assert not torch.allclose(grad, weights, atol=0.1)


@pytest.mark.parametrize('kind', KINDS)
def test_fixed_noise_knows_no_batch_and_samples_differ(kind):
    purifier, x = build(kind), images(3)
    together = purifier(x)
    for i in range(3):
        assert torch.allclose(purifier(x[i : i + 1])[0], together[i], atol=1e-5)
    assert not torch.allclose(purifier(x, 1), together, atol=1e-2)
    other = build(kind, noise_seed=1)
    assert not torch.allclose(other(x), together, atol=1e-2)


def test_fresh_noise_is_drawn_anew_and_seeds_fix_it():
    purifier, x = build('ancestral', noise='fresh'), images()
    first = purifier(x)
    assert not torch.allclose(first, purifier(x), atol=1e-2)
    torch.manual_seed(3)
    first = purifier(x)
    torch.manual_seed(3)
    assert torch.equal(first, purifier(x))


def test_any_size_is_continued_and_cut():
    purifier = build()
    assert purifier.prior.total_stride == 4
    x = images(1, 13, 18)
    assert purifier(x).shape == x.shape
    whole = continue_to(x, 4)
    assert whole.shape[-2:] == (16, 20) and torch.equal(whole[..., :13, :18], x)
    assert torch.equal(whole[..., 13:, :], whole[..., 9:12, :].flip(-2))
    assert torch.allclose(purifier(whole)[..., :13, :18], purifier(x), atol=1e-5)


@pytest.mark.parametrize('prior', ['ddpm', 'edm'])
def test_a_step_back_is_what_diffusers_does(prior):
    """DDIM's step and, with eta = 1, the ancestral one; in sigmas, of the same SNR."""
    model = DiffusionModel.from_pretrained(TINY_UNET)
    ddim = DDIMScheduler.from_config(
        model.scheduler.config, timestep_spacing='leading', clip_sample=False
    )
    ddim.set_timesteps(10)  # 100 apart
    x0, noise, z = torch.randn(3, 2, 3, 4, 4, dtype=torch.float64).unbind()
    here, there = (
        tuple(scale.double() for scale in model.signal_and_noise(t, x0))
        for t in (500, 400)
    )
    x = here[0] * x0 + here[1] * noise
    # The noise of x_t that an estimate of x_0 implies.
    estimate = 0.9 * x0
    implied = (x - here[0] * estimate) / here[1]
    for eta, drawn in ((0, None), (1, z)):
        theirs = ddim.step(implied, 500, x, eta=eta, variance_noise=z).prev_sample
        if prior == 'ddpm':
            ours = reverse_step(x, estimate, here, there, drawn)
        else:  # x / alpha = x_0 + (sigma / alpha) eps
            one = torch.ones_like(here[0])
            ratios = [(one, sigma / alpha) for alpha, sigma in (here, there)]
            ours = reverse_step(x / here[0], estimate, *ratios, drawn) * there[0]
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize('prior', ['ddpm', 'edm'])
def test_of_a_perfect_prior_the_image_comes_back(prior, monkeypatch):
    """The times fall to the image itself, whatever noise was added."""
    x = images()
    for kind in KINDS:
        purifier = build(kind, prior)
        monkeypatch.setattr(purifier.prior, 'predict_x0', lambda x_t, t, cond: x)
        assert torch.allclose(purifier(x), x, atol=1e-5)
        times = getattr(purifier, 'times', [0])
        assert times == sorted(times, reverse=True) and len(set(times)) == len(times)


class Held:
    """A tensor that a graph keeps, for as long as it keeps it."""

    def __init__(self, tensor):
        self.tensor = tensor


def held_bytes(purifier, x):
    """Memory that a graph keeps from the forward pass for the backward one."""
    held = weakref.WeakSet()

    def pack(tensor):
        kept = Held(tensor.detach())  # else it keeps its own graph
        held.add(kept)
        return kept

    weights = {p.untyped_storage().data_ptr() for p in purifier.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        out = purifier(x)
    sizes = {}
    for kept in held:
        storage = kept.tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
    out.sum().backward()
    return sum(size for place, size in sizes.items() if place not in weights)


def test_memory_of_the_exact_gradient_grows_by_an_image_a_step_at_most():
    x = images(2, 32, 32).requires_grad_()
    few, many = (held_bytes(build('ancestral', steps=k), x) for k in (2, 12))
    # One image that goes in, its noise, and what a step without activations holds.
    image = x.untyped_storage().nbytes()
    one_step = held_bytes(build('one-step'), x)
    assert many - few <= 10 * 4 * image
    assert many < one_step / 2


@pytest.mark.parametrize('kind, passes', [('one-step', 1), ('ancestral', 3)])
def test_passes_are_counted(kind, passes, monkeypatch):
    purifier, calls = build(kind), []
    forward = purifier.prior.unet.forward
    monkeypatch.setattr(
        purifier.prior.unet,
        'forward',
        lambda *a, **k: calls.append(1) or forward(*a, **k),
    )
    purifier(images())
    assert len(calls) == passes


@pytest.mark.parametrize(
    'kind, kwargs, words',
    [
        ('one-step', dict(gradient='straight'), "gradient='straight' is unknown; choo"),
        ('one-step', dict(noise='none'), "noise='none' is unknown; choose one of"),
        ('one-step', dict(noise_seed=0.5), 'noise_seed=0.5 must be a whole number'),
        ('one-step', dict(timestep=1000), 'timestep=1000 is out of range'),
        ('one-step', dict(timestep=None), 'OneStepDenoiser got neither timestep nor s'),
        ('one-step', dict(sigma=0.5), 'got timestep=100 and sigma=0.5; this prior'),
        ('one-step', dict(condition=1), 'unconditional: leave the condition out'),
        ('ancestral', dict(timestep=-1), 'timestep=-1 is out of range'),
        ('ancestral', dict(sampler='heun'), "sampler='heun' is unknown; choose one"),
        ('ancestral', dict(steps=0), 'steps=0 must be a whole number of at least 1'),
        ('ancestral', dict(steps=101), 'steps=101 are more than the 100 timesteps'),
    ],
)
def test_bad_arguments_are_one_sentence(kind, kwargs, words):
    with pytest.raises(ValueError, match=words) as caught:
        build(kind, **kwargs)
    assert '\n' not in str(caught.value)


def test_bad_times_of_sigmas_are_one_sentence():
    with pytest.raises(ValueError, match='sigma=0.001.*has room for one'):
        build('ancestral', 'edm', sigma=0.001)
    with pytest.raises(ValueError, match='sigma=inf is out of range'):
        build('one-step', 'edm', sigma=float('inf'))


def test_bad_images_are_one_sentence():
    with pytest.raises(ValueError, match='image of 2x16 is too small to be continued'):
        build()(images(1, 2, 16))
    with pytest.raises(ValueError, match=r'are not \(N, 3, H, W\)'):
        build()(torch.zeros(1, 1, 16, 16))


# Likelihood maximisation.


@pytest.mark.parametrize('name', MAXIMISERS)
@pytest.mark.parametrize('source', [TINY_UNET, EDM], ids=['ddpm', 'edm'])
def test_the_exact_gradient_of_a_maximisation_is_the_slope(name, source):
    """Of the second order, through all steps."""
    x = images(2, 15, 16, dtype=torch.float64)
    slope, difference = slope_and_difference(maximiser(name, source), x)
    assert slope == pytest.approx(difference, rel=1e-3) and abs(slope) > 0.1


@pytest.mark.parametrize('name', MAXIMISERS)
def test_a_maximisation_has_bpda_and_knows_no_batch(name):
    exact, bpda, x = maximiser(name), maximiser(name, gradient='bpda'), images(2)
    with torch.no_grad():
        values = exact(x)
    with torch.inference_mode():
        assert torch.allclose(exact(x), values)
    x.requires_grad_()
    assert torch.equal(exact(x), values) and torch.equal(bpda(x), values)
    assert torch.allclose(exact(x[:1])[0], values[0], atol=1e-5)
    (grad,) = torch.autograd.grad(bpda(x).sum(), x)
    assert torch.equal(grad, torch.ones_like(x))
    (grad,) = torch.autograd.grad(exact(x).square().sum(), x)
    assert not torch.allclose(grad, 2 * values, atol=1e-2)
    assert not any(p.requires_grad for p in exact.parameters())


def test_a_maximisation_lowers_the_error_of_its_own_noise_within_its_budget():
    purifier, x = maximiser('budget', steps=1, eta=2), images(2)
    step = []
    move = purifier.move
    purifier.move = lambda s, *args: step.append(s) or move(s, *args)
    out = purifier(x)
    before, after = (purifier._error(y, step[0]) for y in (x, out))
    assert (after < before).all()
    largest = (out - x).abs().max().item()
    assert largest == pytest.approx(2 / 127.5, rel=1e-4)


def test_momentum_is_algorithm_1():
    """Two steps by hand, with the noises and times that the purifier drew."""
    purifier, x = maximiser('budget', momentum=0.7), images(1)
    steps, move = [], purifier.move
    purifier.move = lambda s, *args: steps.append(s) or move(s, *args)
    out = purifier(x)
    y, m, eta = x, torch.zeros_like(x), 4 / 127.5
    for step in steps:
        y = y.detach().requires_grad_()
        t = step.times[:, 0]
        x_t = purifier.prior.add_noise(y, t, step.noise)
        error = (purifier.prior.predict_noise(x_t, t) - step.noise).square().sum()
        (g,) = torch.autograd.grad(error, y)
        m = 0.7 * m - g / g.abs().mean()
        y = (y + 0.02 * m).clamp(x - eta, x + eta)
    assert torch.allclose(out, y.clamp(-1, 1), atol=1e-5)
    assert len(steps) == 2 and not torch.equal(steps[0].noise, steps[1].noise)


def test_adam_is_torchs():
    purifier, x = maximiser('adam', steps=3), images(1)
    steps, move = [], purifier.move
    purifier.move = lambda s, *args: steps.append(s) or move(s, *args)
    out = purifier(x)
    y = torch.nn.Parameter(x.clone())
    adam = torch.optim.Adam([y], lr=0.05)
    for step in steps:
        adam.zero_grad()
        purifier._error(y, step).sum().backward()
        adam.step()
    assert torch.allclose(out, y.clamp(-1, 1), atol=1e-3)


def test_published_noise_levels_are_the_same_for_both_kinds_of_time():
    low, high = LikelihoodMaximization(TINY_UNET).times
    alpha_bar = LikelihoodMaximization(TINY_UNET).prior.alphas_cumprod
    ratios = ((1 - alpha_bar) / alpha_bar).sqrt()
    assert ratios[low].item() == pytest.approx(0.4, rel=0.02)
    assert ratios[high].item() == pytest.approx(0.6, rel=0.02)
    assert LikelihoodMaximization(EDM).times == (0.4, 0.6)


def test_memory_of_a_maximisation_grows_by_its_state_at_most():
    x = images(1, 32, 32).requires_grad_()
    few, many = (held_bytes(maximiser(steps=k), x) for k in (1, 4))
    assert many - few <= 3 * 6 * x.untyped_storage().nbytes()


@pytest.mark.parametrize(
    'kwargs, words',
    [
        (dict(steps=0), 'steps=0 must be a whole number of at least 1'),
        (dict(optimizer='sgd'), "optimizer='sgd' is unknown; choose one of"),
        (dict(step_size=0), 'step_size=0 must be a number above 0'),
        (dict(eta=0), 'eta=0 must be above 0, in pixel units, or None'),
        (dict(l1='max'), "l1='max' must be 'mean' or 'sum'"),
        (dict(timestep=10), 'timestep=10 must be the lowest and the highest'),
        (dict(timestep=(10, 5000)), 'timestep=5000 is out of range'),
        (dict(sigma=(0.4, 0.6)), 'got sigma=0.4; this prior counts timesteps'),
    ],
)
def test_bad_settings_of_a_maximisation_are_one_sentence(kwargs, words):
    with pytest.raises(ValueError, match=words) as caught:
        LikelihoodMaximization(TINY_UNET, **kwargs)
    assert '\n' not in str(caught.value)
