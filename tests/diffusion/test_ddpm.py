"""Pixel priors: predictions, losses, samples, classes, precision."""

import numpy as np
import pytest
import torch
from conftest import TINY_UNET
from diffusers import DDPMScheduler, UNet2DModel

from mmdiff import DiffusionModel

PATCHED = {**TINY_UNET, 'in_channels': 12, 'out_channels': 12}


def build(source=TINY_UNET, **kwargs):
    torch.manual_seed(0)
    return DiffusionModel.from_pretrained(source, **kwargs).eval()


@pytest.mark.parametrize('prediction', ['epsilon', 'v_prediction', 'sample'])
def test_predictions_agree_with_diffusers(prediction):
    """Same noised images, velocities and clean estimates as DDPMScheduler's."""
    model = build(schedule=dict(prediction_type=prediction))
    x0, noise = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32)
    t = torch.tensor([10, 800])
    x_t = model.add_noise(x0, t, noise)
    assert torch.allclose(x_t, model.scheduler.add_noise(x0, noise, t), atol=1e-5)
    with torch.no_grad():
        out = model.predict(x_t, t)
        x0_hat, noise_hat = model.predict_x0(x_t, t), model.predict_noise(x_t, t)
        loss = model.diffusion_loss(x0, t, noise)
    assert torch.allclose(model.add_noise(x0_hat, t, noise_hat), x_t, atol=1e-3)
    for i in range(2):
        step = model.scheduler.step(out[i : i + 1], int(t[i]), x_t[i : i + 1])
        expected = step.pred_original_sample
        assert torch.allclose(x0_hat[i : i + 1], expected, rtol=1e-3, atol=1e-3)
    target = {
        'epsilon': noise,
        'v_prediction': model.scheduler.get_velocity(x0, noise, t),
        'sample': x0,
    }[prediction]
    assert torch.allclose(loss, (out - target).square().mean((1, 2, 3)), rtol=1e-4)


def test_saved_folder_loads_back_the_same(tmp_path):
    model = build(PATCHED, schedule=dict(beta_schedule='shifted_cosine', shift=0.5))
    model.save_pretrained(tmp_path)
    again = DiffusionModel.from_pretrained(str(tmp_path))
    assert again.patch_size == 2
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    assert torch.equal(model.alphas_cumprod, again.alphas_cumprod)
    # and diffusers reads it without mmdiff
    assert UNet2DModel.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    assert len(DDPMScheduler.from_pretrained(tmp_path).betas) == 1000


def test_shipped_prior_denoises():
    """The prior in the package knows images: it beats the noisy input by far."""
    from mmdiff.datasets.toy_shapes import draw_scene

    model = build('mmdiff::toy_voc')
    image, _ = draw_scene(np.random.default_rng(123))
    x0 = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)[None] / 127.5 - 1
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        x_t = model.add_noise(x0, 200, noise)
        estimate = model.predict_x0(x_t, 200)
    scale = model.alphas_cumprod[200].sqrt()
    assert (estimate - x0).square().mean() < 0.2 * (x_t / scale - x0).square().mean()


def test_sampling_repeats():
    model = build()
    draw = [
        model.sample((2, 32, 32), 3, torch.Generator().manual_seed(1)) for _ in range(2)
    ]
    assert torch.equal(*draw) and draw[0].abs().max() <= 1
    assert not torch.equal(draw[0][0], draw[0][1])


def test_class_conditional():
    model = build({**TINY_UNET, 'num_class_embeds': 3})
    x = torch.randn(2, 3, 32, 32)
    with pytest.raises(ValueError, match='class-conditional'):
        model.features(x, 0, ['mid'])
    with pytest.raises(ValueError, match='unconditional'):
        build().features(x, 0, ['mid'], torch.tensor([0, 1]))
    one, two = (
        model.features(x, 0, ['mid'], torch.full((2,), c))['mid'] for c in (0, 1)
    )
    assert not torch.allclose(one, two)


def test_half_precision_network_keeps_full_precision_outside():
    full, half = build(), build(dtype='bfloat16')
    assert half.unet.dtype == torch.bfloat16
    assert torch.equal(half.alphas_cumprod, full.alphas_cumprod)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        for name, value in full.features(x, 9, ['down.0', 'up.2']).items():
            found = half.features(x, 9, [name])[name]
            assert found.dtype == torch.float32
            assert (found - value).norm() < 0.05 * value.norm()
        assert half.predict(x, 9).dtype == torch.float32


def test_unknown_prediction_is_refused():
    """It would pass for an estimate of the clean image."""
    with pytest.raises(ValueError, match="prediction_type='noise' is unknown"):
        build(schedule=dict(prediction_type='noise'))


def test_the_schedule_stays_exact_whatever_the_module_is_cast_to():
    model = build()
    exact = model.alphas_cumprod.clone()
    for cast in (model.half, model.bfloat16, model.double, model.float):
        cast()
        assert model.alphas_cumprod.dtype == torch.float32
        assert torch.equal(model.alphas_cumprod, exact)
