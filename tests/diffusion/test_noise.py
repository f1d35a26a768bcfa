"""Fixed noise: a constant of the module, in whatever mode it is called."""

import pytest
import torch
from conftest import TINY_UNET, needs_torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmdiff.diffusion import noise as noise_module
from mmdiff.diffusion.noise import FixedNoise, fixed_noise
from mmdiff.models import DiffusionUNet

TAPS = ('down.0.0', 'mid')


def build(**kwargs):
    torch.manual_seed(0)
    args = dict(timestep=300, out_indices=TAPS)
    return DiffusionUNet(TINY_UNET, **{**args, **kwargs}).eval()


def forget():
    noise_module._draw.cache_clear()
    noise_module._tile.cache_clear()


@pytest.fixture(autouse=True)
def _nothing_cached():
    forget()
    yield
    forget()


def drawn_by_hand(shape, seed):
    """The noise as it has always been: tiles of 64, each with its own generator."""
    channels, height, width = shape
    tiles = [
        [
            torch.randn(
                channels,
                64,
                64,
                generator=torch.Generator().manual_seed(
                    ((seed * 1_000_003 + i) * 1_000_003 + j) % 2**63
                ),
                dtype=torch.float32,
            )
            for j in range(-(-width // 64))
        ]
        for i in range(-(-height // 64))
    ]
    whole = torch.cat([torch.cat(row, 2) for row in tiles], 1)
    return whole[None, :, :height, :width]


@pytest.mark.parametrize('size', [(32, 32), (64, 64), (16, 200), (130, 64), (96, 100)])
def test_the_values_are_those_of_position_and_seed(size):
    model = build(noise_seed=3, num_noise=2)
    x = torch.zeros(2, 3, *size)
    for k in range(2):
        expected = drawn_by_hand((3, *size), (3 << 16) + k)
        assert torch.equal(model._draw(x, k), expected)


def in_inference_mode(size):
    with torch.inference_mode():
        return fixed_noise((3, *size), 5)


def among_fake_tensors(size):
    with FakeTensorMode():
        fixed_noise((3, *size), 5)


def with_double_by_default(size):
    torch.set_default_dtype(torch.float64)
    try:
        fixed_noise((3, *size), 5)
    finally:
        torch.set_default_dtype(torch.float32)


def on_the_meta_device(size):
    with torch.device('meta'):
        fixed_noise((3, *size), 5)


@pytest.mark.parametrize(
    'first_call',
    [
        in_inference_mode,
        among_fake_tensors,
        with_double_by_default,
        on_the_meta_device,
    ],
)
def test_the_mode_of_the_first_call_is_not_that_of_later_ones(first_call):
    size = (96, 32)
    first_call(size)
    noise = fixed_noise((3, *size), 5)
    assert type(noise) is torch.Tensor and not noise.is_inference()
    assert noise.dtype == torch.float32 and noise.device.type == 'cpu'
    assert torch.equal(noise, drawn_by_hand((3, *size), 5))


def test_a_model_built_and_run_in_inference_mode_still_gives_gradients():
    model = build()
    with torch.inference_mode():
        model(torch.zeros(1, 3, 96, 96))
    x = torch.zeros(1, 3, 96, 96, requires_grad=True)
    sum(f.square().sum() for f in model(x)).backward()
    assert x.grad.abs().max() > 0


def test_double_precision_by_default_changes_nothing():
    model, x = build(), torch.randn(1, 3, 96, 96)
    expected = model(x)
    forget()
    torch.set_default_dtype(torch.float64)
    try:
        again = build()
        again.load_state_dict(model.state_dict())
        features = again.float()(x)
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(expected, features):
        assert other.dtype == torch.float32
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize('size', [32, 96], ids=['in-the-buffer', 'beyond-the-buffer'])
@pytest.mark.parametrize('how', ['trace', 'export', 'export-strict', 'compile'])
def test_exporters_see_a_constant(how, size):
    """Each call of what they give has the noise of the model."""
    if how != 'trace':
        needs_torch((2, 4), 'a graph without breaks')
    strictly = how in ('export-strict', 'compile')  # no hooks: no layers in blocks
    model = build(out_indices=('down.0', 'mid') if strictly else TAPS)
    x, other = torch.randn(2, 1, 3, size, size)
    with torch.no_grad():
        expected = model(other)
        forget()
        if how == 'trace':
            traced = torch.jit.trace(model, x, check_trace=False)
        elif how == 'compile':
            traced = torch.compile(model, fullgraph=True, backend='eager')
        else:
            strict = how == 'export-strict'
            traced = torch.export.export(model, (x,), strict=strict).module()
        calls = [traced(other) for _ in range(2)]
    for features in calls:
        for one, feature in zip(expected, features):
            assert torch.allclose(one, feature, atol=1e-5)
    with torch.no_grad():  # and the model is as it was
        for one, feature in zip(expected, model(other)):
            assert torch.equal(one, feature)


def test_the_noise_is_a_buffer_that_moves_is_not_saved_and_never_cast():
    model = build()
    assert 'fixed_noise.table' in dict(model.named_buffers())
    assert not any('fixed_noise' in key for key in model.state_dict())
    exact = model.fixed_noise.table.clone()
    model.half().float()
    assert torch.equal(model.fixed_noise.table, exact)
    assert model.to('meta').fixed_noise.table.device.type == 'meta'


def test_noise_comes_in_the_precision_of_the_image():
    noise = FixedNoise(3, (32, 32), (1,))
    for size in (32, 96):
        image = torch.zeros(1, 3, size, size, dtype=torch.bfloat16)
        expected = drawn_by_hand((3, size, size), 1).bfloat16()
        assert torch.equal(noise(image), expected)
