"""Shields by themselves: what they make of images, and of gradients."""

import pytest
import torch
from conftest import TINY_UNET
from diffusers import DDIMScheduler

from mmdiff.diffusion import DiffusionModel
from mmdiff.diffusion.sampling import reverse_step
from mmdiff.models import DiffPure, OneStepDenoiser
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


def held_bytes(purifier, x):
    """Memory that a graph keeps from the forward pass for the backward one."""
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    parameters = {p.untyped_storage().data_ptr() for p in purifier.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = purifier(x)
    out.sum().backward()
    return sum(size for place, size in kept.items() if place not in parameters)


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
