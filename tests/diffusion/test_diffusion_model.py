import json

import pytest
import torch
from conftest import TINY_UNET
from diffusers import DDPMScheduler, UNet2DModel

from mmdiff import DiffusionModel
from mmdiff.diffusion import build_scheduler

PATCHED = {**TINY_UNET, 'in_channels': 12, 'out_channels': 12}
# Every kind of block that the extractor treats in its own way.
VARIANTS = {
    'plain': TINY_UNET,
    'patches': PATCHED,
    'resnet-resampling': {
        **TINY_UNET,
        'downsample_type': 'resnet',
        'upsample_type': 'resnet',
        'resnet_time_scale_shift': 'scale_shift',
    },
    'skip': {
        **TINY_UNET,
        'down_block_types': ('SkipDownBlock2D', 'AttnSkipDownBlock2D') * 1
        + ('SkipDownBlock2D',),
        'up_block_types': ('SkipUpBlock2D', 'AttnSkipUpBlock2D', 'SkipUpBlock2D'),
        'block_out_channels': (32, 32, 32),
        'norm_num_groups': 8,
        'time_embedding_type': 'fourier',
    },
    'no-mid': {**TINY_UNET, 'mid_block_type': None},
}


def build(source=TINY_UNET, **kwargs):
    torch.manual_seed(0)
    return DiffusionModel.from_pretrained(source, **kwargs).eval()


@pytest.mark.parametrize('kind', VARIANTS)
def test_features_are_those_of_the_full_forward(kind):
    """Every tap equals what diffusers' own forward computes there."""
    model = build(VARIANTS[kind])
    x = torch.randn(2, 3, 32, 32)
    t = 7
    if kind == 'skip':
        t = torch.tensor(7.0)
    recorded = {}

    def record(name):
        def hook(_module, _args, out):
            recorded[name] = out[0] if isinstance(out, tuple) else out

        return hook

    unet, handles = model.unet, []
    for side in ('down', 'up'):
        for i, block in enumerate(getattr(unet, f'{side}_blocks')):
            handles.append(block.register_forward_hook(record(f'{side}.{i}')))
            attentions = getattr(block, 'attentions', None)
            for j, layer in enumerate(block.resnets):
                if attentions is not None and len(attentions) == len(block.resnets):
                    layer = attentions[j] or layer
                handles.append(layer.register_forward_hook(record(f'{side}.{i}.{j}')))
    if unet.mid_block is not None:
        handles.append(unet.mid_block.register_forward_hook(record('mid')))
    unet(model._network_input(x), t)
    for handle in handles:
        handle.remove()
    assert set(recorded) == {info.name for info in model.feature_info}
    found = model.features(x, t, list(recorded))
    for info in model.feature_info:
        value = found[info.name]
        assert torch.allclose(value, recorded[info.name], atol=1e-6), info
        assert value.shape == (2, info.channels, 32 // info.stride, 32 // info.stride)


def test_no_block_past_the_deepest_tap_runs():
    model = build()
    ran = []
    for name in ('mid_block', 'up_blocks.0', 'up_blocks.1', 'up_blocks.2'):
        model.unet.get_submodule(name).register_forward_hook(
            lambda *_args, name=name: ran.append(name)
        )
    model.features(torch.randn(1, 3, 32, 32), 0, ['down.1', 'up.0.0'])
    assert ran == ['mid_block', 'up_blocks.0']


@pytest.mark.parametrize('tap', ['down.0.0', 'down.1', 'mid', 'up.1.0', 'up.2'])
def test_truncating_keeps_the_features(tap):
    model, short = build(), build()
    x = torch.randn(1, 3, 32, 32)
    short.truncate([tap])
    assert torch.equal(
        model.features(x, 3, [tap])[tap], short.features(x, 3, [tap])[tap]
    )
    if tap != 'up.2':
        count = sum(p.numel() for p in model.parameters())
        assert sum(p.numel() for p in short.parameters()) < count
    with pytest.raises(RuntimeError, match='truncated'):
        short.predict(x, 3)
    with pytest.raises(RuntimeError, match='truncated'):
        short.save_pretrained('nowhere')


@pytest.mark.parametrize('kind', VARIANTS)
def test_gradient_to_the_input_is_exact(kind):
    """Finite differences along random directions, in double precision."""
    model = build(VARIANTS[kind]).double()
    x = torch.randn(1, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    taps = ['down.0', 'up.2' if kind != 'no-mid' else 'up.1']
    t = torch.tensor(5.0) if kind == 'skip' else 5

    def value(image):
        noisy = model.add_noise(image, 5, torch.ones_like(image))
        return sum(f.square().sum() for f in model.features(noisy, t, taps).values())

    (grad,) = torch.autograd.grad(value(x), x)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        direction = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        step = 1e-4 * direction
        with torch.no_grad():
            slope = (value(x + step) - value(x - step)) / 2e-4
        assert (grad * direction).sum().item() == pytest.approx(slope.item(), rel=1e-4)


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


def test_shifted_cosine_table():
    """log SNR as in Hoogeboom et al. 2023, through the betas and back."""
    table = build_scheduler(dict(beta_schedule='shifted_cosine', shift=0.5))
    alpha_bar = table.alphas_cumprod.double()
    t = torch.linspace(1e-4, 1 - 1e-4, 1000, dtype=torch.float64)
    angle = torch.pi * t / 2
    snr = (torch.cos(angle) / torch.sin(angle) * 0.5) ** 2
    keep = t < 0.99
    expected = (snr / (1 + snr))[keep]
    assert torch.allclose(alpha_bar[keep], expected, rtol=1e-3)
    plain = build_scheduler(dict(beta_schedule='shifted_cosine'))
    assert (plain.alphas_cumprod >= table.alphas_cumprod).all()


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


def test_pipeline_folder(tmp_path):
    model = build()
    model.unet.save_pretrained(tmp_path / 'unet')
    model.scheduler.save_pretrained(tmp_path / 'scheduler')
    (tmp_path / 'model_index.json').write_text('{}')
    again = DiffusionModel.from_pretrained(str(tmp_path))
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected, found = model.predict(x, 3), again.eval().predict(x, 3)
    assert torch.allclose(expected, found, atol=1e-6)


def test_shipped_prior_denoises():
    """The prior in the package knows images: it beats the noisy input by far."""
    from mmdiff.datasets.toy_voc import draw_scene

    model = build('mmdiff::toy_voc')
    import numpy as np

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


def broken_weights(folder):
    build().save_pretrained(folder)
    weights = folder / 'diffusion_pytorch_model.safetensors'
    weights.write_bytes(weights.read_bytes()[:-100])


def no_weights(folder):
    build().save_pretrained(folder)
    (folder / 'diffusion_pytorch_model.safetensors').unlink()


def no_schedule(folder):
    build().save_pretrained(folder)
    (folder / 'scheduler_config.json').unlink()


def other_width(folder):
    build().save_pretrained(folder)
    config = json.loads((folder / 'config.json').read_text())
    config['block_out_channels'] = [4, 8, 16]
    (folder / 'config.json').write_text(json.dumps(config))


def other_class(folder):
    build().save_pretrained(folder)
    config = json.loads((folder / 'config.json').read_text())
    config['_class_name'] = 'UNet2DConditionModel'
    (folder / 'config.json').write_text(json.dumps(config))


@pytest.mark.parametrize(
    'spoil, error, words',
    [
        (broken_weights, ValueError, 'cut short or damaged'),
        (no_weights, FileNotFoundError, 'no weights'),
        (no_schedule, FileNotFoundError, 'no scheduler_config.json'),
        (other_width, ValueError, 'do not fit its config.json'),
        (other_class, ValueError, 'holds a UNet2DConditionModel'),
        (lambda folder: None, FileNotFoundError, 'no config.json'),
    ],
)
def test_bad_folders_are_one_sentence(tmp_path, spoil, error, words):
    spoil(tmp_path)
    with pytest.raises(error, match=words) as caught:
        DiffusionModel.from_pretrained(str(tmp_path))
    assert '\n' not in str(caught.value)


def test_missing_folder_and_unreachable_hub(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match='There is no folder'):
        DiffusionModel.from_pretrained(str(tmp_path / 'nothing'))
    with pytest.raises(FileNotFoundError, match='there are: .*mmdiff::toy_voc'):
        DiffusionModel.from_pretrained('mmdiff::nothing')
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    with pytest.raises(FileNotFoundError, match='could not be fetched from the hub'):
        DiffusionModel.from_pretrained('owner/name', cache_dir=str(tmp_path))


def test_wrong_channels_and_other_arguments():
    for source, kwargs, words in (
        ({**TINY_UNET, 'in_channels': 5}, {}, 'has in_channels=5'),
        ({**TINY_UNET, 'out_channels': 5}, {}, 'out_channels=5'),
        (TINY_UNET, dict(patch_size=4), 'patch_size=4 needs in_channels=48'),
        (TINY_UNET, dict(schedule=dict(beta_schedule='odd')), 'is not one that'),
        ({'type': 'Transformer2DModel'}, {}, 'not Transformer2DModel'),
    ):
        with pytest.raises(ValueError, match=words):
            build(source, **kwargs)


def test_unknown_taps_and_sizes():
    model = build()
    x = torch.randn(1, 3, 32, 32)
    with pytest.raises(ValueError, match=r"no tap 'up.9'; the taps .* up.2"):
        model.features(x, 0, ['up.9'])
    count = len(model.feature_info)
    with pytest.raises(ValueError, match=f'out of range; the network has {count}'):
        model.features(x, 0, [count])
    assert list(model.features(x, 0, [-1, 0])) == ['up.2', 'down.0.0']
    with pytest.raises(ValueError, match='pad_size_divisor=4'):
        model.features(torch.randn(1, 3, 30, 32), 0, [0])


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


def test_changed_weights_do_not_match_their_checksum(tmp_path):
    """A SHA256 file beside the weights is compared on loading."""
    import hashlib

    model = build()
    model.save_pretrained(tmp_path)
    weights = tmp_path / 'diffusion_pytorch_model.safetensors'
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    (tmp_path / 'SHA256').write_text(f'{digest}  {weights.name}\n')
    DiffusionModel.from_pretrained(str(tmp_path))
    model.unet.conv_in.bias.data += 1
    model.unet.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match='does not match the SHA256 file'):
        DiffusionModel.from_pretrained(str(tmp_path))


def test_settings_that_diffusers_lacks_come_back(tmp_path):
    """Heads fixed over levels, another width of the time embedding, "no class"."""
    extra = dict(
        num_attention_heads=2,
        time_proj_channels=16,
        num_class_embeds=4,
        null_class=3,
        attn_norm_num_groups=2,
    )
    model = build({**TINY_UNET, **extra, 'attention_head_dim': 8})
    attention = model.unet.mid_block.attentions[0]
    assert attention.heads == 2 and attention.scale == 4**-0.5
    assert model.unet.time_embedding.linear_1.in_features == 16
    assert model.num_classes == 3 and model.null_class == 3
    model.save_pretrained(tmp_path)
    again = DiffusionModel.from_pretrained(str(tmp_path)).eval()
    assert again.unet.mid_block.attentions[0].heads == 2
    assert again.num_classes == 3
    x, label = torch.randn(1, 3, 32, 32), torch.tensor([1])
    with torch.no_grad():
        assert torch.equal(model.predict(x, 3, label), again.predict(x, 3, label))
        random = DiffusionModel.from_pretrained(str(tmp_path), random_weights=True)
        assert not torch.equal(random.unet.conv_in.weight, again.unet.conv_in.weight)
    weights = tmp_path / 'diffusion_pytorch_model.safetensors'
    weights.unlink()
    with pytest.raises(FileNotFoundError, match='no weights'):
        DiffusionModel.from_pretrained(str(tmp_path))


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
