"""Likelihoods by denoising: exact gradients, for any chunks, batches and priors."""

import math

import pytest
import torch
from conftest import TINY_UNET

from mmdiff import DiffusionModel
from mmdiff.diffusion.levels import choose_levels, equivalent_sigma
from mmdiff.diffusion.likelihood import ClassLikelihood, denoising_errors

CLASSES = 3
SOURCES = {
    'ddpm': {**TINY_UNET, 'sample_size': 16, 'num_class_embeds': CLASSES},
    'edm': dict(
        type='EDMPrecond',
        img_resolution=16,
        img_channels=3,
        label_dim=CLASSES,
        model_type='SongUNet',
        model_channels=8,
        channel_mult=(1, 2),
        num_blocks=1,
        attn_resolutions=(8,),
    ),
}


def build(kind='ddpm', **kwargs):
    torch.manual_seed(0)
    model = DiffusionModel.from_pretrained(SOURCES[kind], **kwargs)
    # Random networks of EDM start with zeros: give them an opinion.
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.requires_grad_(False)


def images(count=2):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def times_of(kind):
    return torch.tensor([30, 400, 900] if kind == 'ddpm' else [0.05, 0.4, 2.0])


@pytest.mark.parametrize('kind', SOURCES)
def test_errors_are_those_of_the_formula_at_each_time(kind):
    model, x, t = build(kind), images(), times_of(kind)
    noise, cond = torch.randn(2, 3, 3, 16, 16), torch.tensor([2, 0])
    errors = denoising_errors(model, x, t, noise, cond, chunk_size=4)
    for i in range(2):
        for j in range(3):
            time, eps = t[j : j + 1], noise[i : i + 1, j]
            x_t = model.add_noise(x[i : i + 1], time, eps)
            estimate = model.predict_noise(x_t, time, cond[i : i + 1])
            expected = (estimate - eps).square().mean()
            assert errors[i, j].item() == pytest.approx(expected.item(), rel=1e-4)
    shared = denoising_errors(model, x, t.expand(2, 3), noise[0], cond)
    assert torch.allclose(shared[0], errors[0], rtol=1e-4)
    assert not torch.allclose(shared[1], errors[1], rtol=1e-4)


@pytest.mark.parametrize('frozen', [True, False])
@pytest.mark.parametrize('kind', SOURCES)
def test_the_gradient_is_exact_and_does_not_depend_on_chunks(kind, frozen):
    model = build(kind).requires_grad_(not frozen)
    levels = choose_levels(model, times=times_of(kind).tolist(), weighting='log_normal')
    grads = []
    for chunk_size in (1000, 4, 1):  # the first is one graph without recomputation
        x = images().requires_grad_()
        logits = ClassLikelihood(model, levels, chunk_size=chunk_size).class_logits(x)
        score = (logits * torch.tensor([1.0, -2.0, 3.0])).sum()
        grads.append(torch.autograd.grad(score, x)[0])
    assert grads[0].abs().max() > 1e-5
    for grad in grads[1:]:
        assert torch.allclose(
            grad, grads[0], rtol=1e-3, atol=1e-3 * grads[0].abs().max()
        )


def exact_attention():
    """Attention whose gradient has a gradient; others of torch have none."""
    if not hasattr(torch.nn, 'attention'):
        pytest.skip('this torch chooses no kernel of attention')
    return torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)


@pytest.mark.parametrize('frozen', [True, False])
def test_gradients_of_gradients_and_of_parameters_do_not_depend_on_chunks(frozen):
    """Likelihood maximisation takes the one, distillation the other."""
    model, found = build().requires_grad_(not frozen), []
    levels = choose_levels(model, 3)
    for chunk_size in (1000, 4):
        x = images().requires_grad_()
        likelihood = ClassLikelihood(model, levels, chunk_size=chunk_size)
        wanted = [x, *(() if frozen else model.parameters())]
        with exact_attention():
            logits = likelihood.class_logits(x)
            (grad,) = torch.autograd.grad(logits[:, 1].sum(), x, create_graph=True)
            norm = grad.square().sum()
            found.append(torch.autograd.grad(norm, wanted, allow_unused=True))
    assert found[0][0].abs().max() > 0
    for whole, chunked in zip(*found):
        scale = 0 if whole is None else whole.abs().max().item()
        if scale > 1e-9:  # less is rounding: a shift that normalisation takes away
            assert torch.allclose(chunked, whole, rtol=1e-2, atol=1e-3 * scale)


@pytest.mark.parametrize('kind', SOURCES)
def test_the_gradient_agrees_with_finite_differences(kind):
    model = build(kind).double().requires_grad_(False)
    levels = choose_levels(model, times=times_of(kind).tolist())
    likelihood = ClassLikelihood(model, levels, chunk_size=4)
    x = images(1).double()
    direction, step = torch.randn_like(x), 1e-4
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(likelihood.class_logits(leaf)[0, 1], leaf)
    up, down = (likelihood.class_logits(x + s * direction)[0, 1] for s in (step, -step))
    slope = ((up - down) / (2 * step)).item()
    assert (grad * direction).sum().item() == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize('kind', SOURCES)
def test_logits_are_weighted_errors_whatever_the_batch(kind):
    model, x = build(kind), images(3)
    levels = choose_levels(model, 4, weighting='log_normal')
    likelihood = ClassLikelihood(model, levels, chunk_size=5)
    together = likelihood.class_logits(x)
    assert together.shape == (3, CLASSES) and likelihood.passes == 12
    alone = likelihood.class_logits(x[1:2])
    assert torch.allclose(together[1:2], alone, rtol=1e-4)
    draws, total = likelihood.draw(), torch.zeros(3)
    for number, (time, weight) in enumerate(zip(levels.times, levels.weights)):
        noise = draws.rows(x, torch.tensor([number]), torch.tensor([0]))
        t, cond = torch.tensor([time]), torch.full((3,), 2)
        total -= weight * denoising_errors(model, x, t, noise, cond)[:, 0]
    assert torch.allclose(together[:, 2], total, rtol=1e-4)


@pytest.mark.parametrize('frozen', [True, False])
def test_memory_of_the_graph_grows_with_neither_levels_nor_classes(frozen):
    model, x = build().requires_grad_(not frozen), images()

    def saved_bytes(num_levels, chunk_size=6):
        sizes = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        levels = choose_levels(model, num_levels)
        likelihood = ClassLikelihood(model, levels, chunk_size=chunk_size)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            logits = likelihood.class_logits(x.clone().requires_grad_())
        assert logits.requires_grad
        return sum(sizes.values())

    few, many = saved_bytes(4), saved_bytes(32)
    # Numbers of rows, and errors, are all that is kept of a chunk.
    assert many - few < 16 * 28 * 2 * CLASSES
    assert saved_bytes(4, chunk_size=1000) > 100 * few  # the graph in one piece


def test_fixed_noise_is_shared_and_fresh_noise_follows_the_global_seed():
    model, x = build(), images(1).expand(2, -1, -1, -1)
    levels = choose_levels(model, 3)
    fixed = ClassLikelihood(model, levels).class_logits(x)
    assert torch.allclose(fixed[0], fixed[1], rtol=1e-5)
    assert torch.equal(fixed, ClassLikelihood(model, levels).class_logits(x))
    other = ClassLikelihood(model, levels, noise_seed=1).class_logits(x)
    assert not torch.allclose(fixed, other, rtol=1e-4)
    fresh = ClassLikelihood(model, levels, noise='fresh')
    torch.manual_seed(5)
    first, second = fresh.class_logits(x), fresh.class_logits(x)
    assert not torch.allclose(first, second, rtol=1e-4)
    assert not torch.allclose(first[0], first[1], rtol=1e-4)
    torch.manual_seed(5)
    assert torch.equal(fresh.class_logits(x), first)


def test_fresh_noise_is_the_same_when_a_chunk_is_computed_again():
    """Else the gradient would be of other noise than the logits."""
    model, grads = build().requires_grad_(False), []
    levels = choose_levels(model, 3)
    for chunk_size in (1000, 4):
        torch.manual_seed(0)
        x = images().requires_grad_()
        fresh = ClassLikelihood(model, levels, noise='fresh', chunk_size=chunk_size)
        logits = fresh.class_logits(x)
        torch.manual_seed(99)  # what others draw before the backward pass
        grads.append(torch.autograd.grad(logits[:, 0].sum(), x)[0])
    assert torch.allclose(*grads, atol=1e-3 * grads[0].abs().max().item())


def test_weights_are_the_formulas():
    model = build('edm')
    for weighting, power in (('log_normal', -1), ('paper', 1)):
        levels = choose_levels(model, 125, 'linear', weighting)
        assert len(levels) == 125 and levels.times[0] == pytest.approx(1e-4)
        ds = (3 - 1e-4) / 125
        s, w = levels.times[40], levels.weights[40]
        assert s == pytest.approx(1e-4 + 40 * ds)
        z = (math.log(s) + 1.2) ** 2 / 2 * (1.2**2) ** power
        p = math.exp(-z) / (s * 1.2 * math.sqrt(2 * math.pi))
        # of the error of the image, as published; that of the noise is 1 / s of it
        published = (s**2 + 0.25) / (s * 0.5) ** 2 * p * ds
        assert w == pytest.approx(published * s**2, rel=1e-6)
    assert choose_levels(model, 4).weights == (0.25,) * 4
    twice = choose_levels(model, 4, num_noise=2)
    assert len(twice) == 8 and sum(twice.weights) == pytest.approx(1)


def test_the_density_sums_to_the_share_of_the_log_normal():
    """Divided by what depends on sigma alone, weights are an integral of p."""
    model = build('edm')
    levels = choose_levels(model, 400, 'log', 'log_normal', sigma_range=(1e-3, 50))
    total = sum(w * 0.25 / (s**2 + 0.25) for s, w in zip(levels.times, levels.weights))
    assert total == pytest.approx(1, abs=0.02)


def test_a_grid_of_sigmas_falls_on_timesteps_with_their_own_widths():
    model = build()
    levels = choose_levels(model, 125, 'linear', 'log_normal')
    assert all(isinstance(t, int) for t in levels.times)
    assert list(levels.times) == sorted(set(levels.times)) and len(levels) <= 125
    sigmas = [equivalent_sigma(model, t) for t in levels.times]
    assert sigmas[-1] < 3 and all(w > 0 for w in levels.weights)
    alpha_bar = model.alphas_cumprod[levels.times[3]].item()
    assert sigmas[3] == pytest.approx(((1 - alpha_bar) / alpha_bar) ** 0.5, rel=1e-3)


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(num_levels=0), 'num_levels=0 leaves no noise to predict'),
        (dict(num_noise=0), 'num_noise=0 leaves no noise to predict'),
        (dict(times=[]), 'leaves no noise to predict'),
        (dict(times=[10, 1000]), 'timestep=1000 is out of range'),
        (dict(times=[0.5]), 'timestep=0.5 is no whole number'),
        (dict(times=[10, 10]), 'has a level twice'),
        (dict(num_levels=1001), 'at most 1000'),
        (dict(grid='cosine'), "grid='cosine' is unknown"),
        (dict(weighting='snr'), "weighting='snr' is unknown"),
        (dict(sigma_range=(0, 3)), 'must rise from above 0'),
    ],
)
def test_wrong_levels_are_one_sentence(settings, message):
    with pytest.raises(ValueError, match=message):
        choose_levels(build(), **settings)


def test_other_mistakes_are_one_sentence():
    unconditional = DiffusionModel.from_pretrained(TINY_UNET)
    with pytest.raises(ValueError, match='needs a class-conditional one'):
        ClassLikelihood(unconditional, choose_levels(unconditional))
    model, x = build(), images()
    with pytest.raises(ValueError, match="noise='none' is unknown"):
        ClassLikelihood(model, choose_levels(model), noise='none')
    with pytest.raises(ValueError, match='sigma=-1.0 is out of range'):
        choose_levels(build('edm'), times=[-1.0])
    for t, noise, message in (
        (torch.tensor([1000]), torch.zeros(1, 3, 16, 16), '1000 is out of range'),
        (torch.tensor([], dtype=torch.long), torch.zeros(0, 3, 16, 16), 'no time to'),
        (torch.tensor([10]), torch.zeros(2, 3, 16, 16), 'do not fit images'),
    ):
        with pytest.raises(ValueError, match=message):
            denoising_errors(model, x, t, noise, torch.zeros(2, dtype=torch.long))


def test_mixed_precision_dropout_and_gradients_to_noise_do_not_depend_on_chunks():
    model, x = build(), images()
    t, cond = times_of('ddpm'), torch.tensor([2, 0])
    found = {}
    for chunk_size in (1000, 4):
        noise = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        noise.requires_grad_()
        leaf = x.clone().requires_grad_()
        with torch.autocast('cpu', torch.bfloat16):
            errors = denoising_errors(model, leaf, t, noise, cond, chunk_size)
        found[chunk_size] = torch.autograd.grad(errors.sum(), (leaf, noise))
    for whole, chunked in zip(*found.values()):
        assert torch.allclose(whole, chunked, atol=1e-2 * whole.abs().max().item())

    drop = torch.nn.Dropout(0.5).train()
    conv_out = model.unet.conv_out.forward
    model.unet.dropout, model.unet.conv_out.forward = drop, lambda h: conv_out(drop(h))
    leaf = x.clone().requires_grad_()
    noise = noise.detach()
    torch.manual_seed(1)
    errors = denoising_errors(model, leaf, t, noise, cond, chunk_size=4)
    (grad,) = torch.autograd.grad(errors.sum(), leaf)
    direction, ends = torch.randn_like(x), []
    for step in (1e-2, -1e-2):
        torch.manual_seed(1)
        moved = x + step * direction
        ends.append(denoising_errors(model, moved, t, noise, cond, chunk_size=4).sum())
    slope = ((ends[0] - ends[1]) / 2e-2).item()
    assert (grad * direction).sum().item() == pytest.approx(slope, rel=0.05)
