import json
import sys

import huggingface_hub
import pytest
import safetensors.torch
import torch
from conftest import TINY_UNET, batch_of, run
from diffusers import AutoencoderKL, DDPMScheduler, PNDMScheduler, UNet2DConditionModel
from mmengine.runner import load_checkpoint, save_checkpoint

from mmdiff import PGD, DiffusionModel
from mmdiff.diffusion import LatentDiffusionModel
from mmdiff.diffusion.hub import locate
from mmdiff.diffusion.prompts import PromptEmbedding, write_embedding
from mmdiff.models import DiffusionUNet

# Stable Diffusion 1.x, shrunk: four levels behind a VAE of factor 8.
UNET = dict(
    sample_size=8,
    block_out_channels=(4, 8, 8, 8),
    down_block_types=('CrossAttnDownBlock2D',) * 3 + ('DownBlock2D',),
    up_block_types=('UpBlock2D',) + ('CrossAttnUpBlock2D',) * 3,
    layers_per_block=1,
    attention_head_dim=2,
    norm_num_groups=2,
    cross_attention_dim=8,
)
VAE = dict(
    block_out_channels=(4, 4, 4, 8),
    down_block_types=('DownEncoderBlock2D',) * 4,
    up_block_types=('UpDecoderBlock2D',) * 4,
    norm_num_groups=2,
    scaling_factor=0.3,
)
SD2 = dict(use_linear_projection=True, attention_head_dim=(1, 2, 2, 2))
CONFIG = dict(type='LatentDiffusion', unet=UNET, vae=VAE)
TAPS = ('up.3.1', 'up.2', 'up.1.0', 'up.0.0')
PROMPT = 'a cat'


def save_text_encoder(folder, hidden_size=8):
    """A small CLIP text encoder, and a tokenizer that knows letters."""
    pytest.importorskip('transformers')
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = 'abcdefghijklmnopqrstuvwxyz'
    words = [*letters, *(f'{c}</w>' for c in letters)]
    words += ['<|startoftext|>', '<|endoftext|>']
    (folder / 'words').mkdir()
    vocabulary, merges = folder / 'words/vocab.json', folder / 'words/merges.txt'
    vocabulary.write_text(json.dumps({word: i for i, word in enumerate(words)}))
    merges.write_text('#version: 0.2\n')
    tokenizer = CLIPTokenizer(str(vocabulary), str(merges))
    tokenizer.save_pretrained(folder / 'tokenizer')
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=hidden_size,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=12,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
    )
    encoder = CLIPTextModel(config).eval()
    encoder.save_pretrained(folder / 'text_encoder')
    return tokenizer, encoder


def save_pipeline(folder, unet=None, **schedule):
    torch.manual_seed(0)
    UNet2DConditionModel(**{**UNET, **(unet or {})}).save_pretrained(folder / 'unet')
    AutoencoderKL(**VAE).save_pretrained(folder / 'vae')
    # Stable Diffusion's own scheduler, which is not DDPM's.
    PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule='scaled_linear', **schedule
    ).save_pretrained(folder / 'scheduler')
    (folder / 'model_index.json').write_text('{}')
    return save_text_encoder(folder)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


@pytest.fixture
def pipeline(tmp_path):
    save_pipeline(tmp_path / 'sd')
    return tmp_path / 'sd'


def load(source=CONFIG, **kwargs):
    torch.manual_seed(0)
    return DiffusionModel.from_pretrained(
        source if isinstance(source, dict) else str(source), **kwargs
    ).eval()


def no_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, 'transformers', None)


def test_encode_is_diffusers_own(pipeline):
    model = load(pipeline)
    assert isinstance(model, LatentDiffusionModel)
    assert (model.encoder_stride, model.total_stride) == (8, 64)
    assert (model.noise_channels, model.num_classes) == (4, 0)
    vae = AutoencoderKL.from_pretrained(pipeline / 'vae').eval()
    x = torch.rand(2, 3, 64, 128) * 2 - 1
    with torch.no_grad():
        posterior = vae.encode(x).latent_dist
        assert torch.allclose(model.encode(x), posterior.mean * 0.3, atol=1e-6)
        drawn = load(pipeline, latent='sample').encode(x)
        z = (drawn / 0.3 - posterior.mean) / posterior.std
        # Noise of unit variance, the same for every image of the batch and call.
        assert torch.allclose(z[0], z[1], atol=1e-4) and 0.7 < z.std() < 1.3
        again = load(pipeline, latent='sample').encode(x)
        assert torch.allclose(drawn, again, atol=1e-6)
        latents = torch.randn(1, 4, 8, 8)
        decoded = vae.decode(latents / 0.3).sample
        assert torch.allclose(model.decode(latents), decoded, atol=1e-6)


def test_shift_factor_goes_both_ways():
    plain = load()
    shifted = load({**CONFIG, 'vae': {**VAE, 'shift_factor': 0.5}})
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        z = shifted.encode(x)
        assert torch.allclose(z, plain.encode(x) - 0.3 * 0.5, atol=1e-6)
        assert torch.allclose(
            shifted.decode(z), plain.decode(plain.encode(x)), atol=1e-5
        )


def test_vae_with_the_old_names_of_attention(pipeline):
    """The published files of Stable Diffusion 1.5 have them."""
    weights = pipeline / 'vae' / 'diffusion_pytorch_model.safetensors'
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = load(pipeline).encode(x)
    names = {'to_q': 'query', 'to_k': 'key', 'to_v': 'value', 'to_out.0': 'proj_attn'}
    state = safetensors.torch.load_file(weights)
    for new, old in names.items():
        state = {key.replace(f'.{new}.', f'.{old}.'): v for key, v in state.items()}
    assert any('.proj_attn.' in key for key in state)
    safetensors.torch.save_file(state, weights, {'format': 'pt'})
    with torch.no_grad():
        assert torch.allclose(load(pipeline).encode(x), expected, atol=1e-6)


@pytest.mark.parametrize('unet', [{}, SD2], ids=['sd1', 'sd2'])
def test_features_and_prediction_are_those_of_diffusers(unet):
    """Every tap equals what the full forward computes there."""
    model = load({**CONFIG, 'unet': {**UNET, **unet}})
    x, t = torch.randn(2, 4, 8, 16), torch.tensor([7, 300])
    recorded, handles = {}, []

    def record(name):
        def hook(_module, _args, out):
            recorded[name] = out[0] if isinstance(out, tuple) else out

        return hook

    for side in ('down', 'up'):
        for i, block in enumerate(getattr(model.unet, f'{side}_blocks')):
            handles.append(block.register_forward_hook(record(f'{side}.{i}')))
            layers = getattr(block, 'attentions', block.resnets)
            for j, layer in enumerate(layers):
                handles.append(layer.register_forward_hook(record(f'{side}.{i}.{j}')))
    handles.append(model.unet.mid_block.register_forward_hook(record('mid')))
    prompts = model.prompt_embeds.expand(2, -1, -1)
    with torch.no_grad():
        expected = model.unet(x, t, prompts).sample
        for handle in handles:
            handle.remove()
        assert torch.equal(model.predict(x, t), expected)
        found = model.features(x, t, list(recorded))
        other = model.features(x, t, ['mid'], torch.randn(2, 5, 8))['mid']
    assert set(recorded) == {info.name for info in model.feature_info}
    for info in model.feature_info:
        value = found[info.name]
        assert torch.allclose(value, recorded[info.name], atol=1e-6), info
        shape = (2, info.channels, 64 // info.stride, 128 // info.stride)
        assert value.shape == shape, info
    assert not torch.allclose(other, found['mid'], atol=1e-3)


def test_no_block_past_the_deepest_tap_runs_and_truncating_drops_them():
    model, short = load(), load()
    ran = []
    for name in ('mid_block', 'up_blocks.0', 'up_blocks.1'):
        model.unet.get_submodule(name).register_forward_hook(
            lambda *_args, name=name: ran.append(name)
        )
    x = torch.randn(1, 4, 8, 8)
    whole = model.features(x, 3, ['up.0.0'])['up.0.0']
    assert ran == ['mid_block', 'up_blocks.0']
    short.truncate(['up.0.0'])
    assert torch.equal(short.features(x, 3, ['up.0.0'])['up.0.0'], whole)
    assert len(short.unet.up_blocks) == 1 and short.vae.decoder is None
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(short.encode(image), model.encode(image))
    for call in (short.decode, lambda x: short.predict(x, 3)):
        with pytest.raises(RuntimeError, match='truncated'):
            call(x)


@pytest.mark.parametrize('latent', ['mean', 'sample'])
@pytest.mark.parametrize('with_cp', [False, True])
def test_gradient_through_the_vae_is_exact(latent, with_cp):
    """Finite differences from features to pixels, in double precision."""
    model = load(latent=latent).double()
    if with_cp:
        model.enable_gradient_checkpointing()
        assert model.vae.encoder.gradient_checkpointing
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64) * 2 - 1
    x.requires_grad_(True)

    def value(image):
        latents = model.encode(image)
        noisy = model.add_noise(latents, 5, torch.ones_like(latents))
        out = model.features(noisy, 5, ['down.0.0', 'up.3'])
        return sum(f.square().sum() for f in out.values())

    (grad,) = torch.autograd.grad(value(x), x)
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        direction = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        with torch.no_grad():
            step = 1e-4 * direction
            slope = (value(x + step) - value(x - step)) / 2e-4
        assert slope.abs() > 1e-3
        assert (grad * direction).sum().item() == pytest.approx(slope.item(), rel=1e-4)


def test_prompt_is_embedded_once_and_the_text_encoder_dropped(tmp_path, monkeypatch):
    folder = tmp_path / 'sd'
    tokenizer, encoder = save_pipeline(folder)
    model = load(folder, prompt=PROMPT)
    ids = tokenizer(PROMPT, padding='max_length', max_length=12, return_tensors='pt')
    with torch.no_grad():
        expected = encoder(ids.input_ids).last_hidden_state
    assert torch.allclose(model.prompt_embeds, expected, atol=1e-6)
    kinds = {type(m).__module__.split('.')[0] for m in model.modules()}
    assert 'transformers' not in kinds
    keys = {key.split('.')[0] for key in model.state_dict()}
    assert keys == {'unet', 'vae', 'prompt_key'}
    # From the cache: without transformers, and bit by bit the same.
    (cached,) = (tmp_path / 'cache/mmdiff/prompts').iterdir()
    with monkeypatch.context() as patch:
        no_transformers(patch)
        assert torch.equal(load(folder, prompt=PROMPT).prompt_embeds, expected)
        with pytest.raises(ImportError, match=r"pip install 'mmdiff\[sd\]'") as caught:
            load(folder, prompt='a dog')
        assert '\n' not in str(caught.value)
        with pytest.raises(ImportError, match='needs transformers'):
            load(folder, prompt=PROMPT, cache_dir=str(tmp_path / 'elsewhere'))
    # A damaged file is made again.
    good = cached.read_bytes()
    for bad in (good[:-8], b'', safetensors.torch.save({}, {'prompt': PROMPT})):
        cached.write_bytes(bad)
        assert torch.equal(load(folder, prompt=PROMPT).prompt_embeds, expected)
        assert cached.read_bytes() == good
    # Another text encoder, another entry.
    encoder.text_model.final_layer_norm.bias.data.add_(1)
    encoder.save_pretrained(folder / 'text_encoder')
    assert torch.allclose(
        load(folder, prompt=PROMPT).prompt_embeds, expected + 1, atol=1e-5
    )
    assert len(list(cached.parent.iterdir())) == 2


def test_unwritable_cache_warns_and_goes_on(pipeline, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.warns(UserWarning, match='was not cached'):
        model = load(pipeline, prompt=PROMPT, cache_dir=str(tmp_path / 'file'))
    assert torch.equal(model.prompt_embeds, load(pipeline, prompt=PROMPT).prompt_embeds)


def test_saved_folder_loads_back_the_same(pipeline, tmp_path, monkeypatch):
    model = load(pipeline, prompt=PROMPT)
    model.save_pretrained(str(tmp_path / 'saved'))
    no_transformers(monkeypatch)
    again = load(tmp_path / 'saved', prompt=PROMPT)
    first, second = model.state_dict(), again.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    for name in ('alphas_cumprod', 'prompt_embeds'):
        assert torch.equal(getattr(model, name), getattr(again, name))
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        first, second = (m.predict(m.encode(x), 3) for m in (model, again))
    assert torch.allclose(first, second, atol=1e-5)
    with pytest.raises(FileNotFoundError, match='has no text_encoder .*take the prom'):
        load(tmp_path / 'saved', prompt='a dog')
    assert str(pipeline) not in (tmp_path / 'saved/vae/config.json').read_text()


def test_schedule_is_read_from_the_pipeline(tmp_path):
    save_pipeline(tmp_path / 'sd', SD2, prediction_type='v_prediction')
    model = load(tmp_path / 'sd')
    table = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule='scaled_linear'
    )
    assert torch.equal(model.alphas_cumprod, table.alphas_cumprod)
    assert model.prediction_type == 'v_prediction'
    x0, noise = torch.randn(2, 2, 4, 8, 8)
    t = torch.tensor([3, 900])
    with torch.no_grad():
        out = model.predict(model.add_noise(x0, t, noise), t)
        loss = model.diffusion_loss(x0, t, noise)
    velocity = table.get_velocity(x0, noise, t)
    assert torch.allclose(loss, (out - velocity).square().mean((1, 2, 3)), rtol=1e-4)


def test_bfloat16_stays_inside(pipeline):
    model, half = load(pipeline), load(pipeline, dtype='bfloat16')
    assert {half.unet.dtype, half.vae.dtype} == {torch.bfloat16}
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    x.requires_grad_(True)
    grads = []
    for m in (model, half):
        latents = m.encode(x)
        features = m.features(m.add_noise(latents, 5, 0 * latents), 5, TAPS)
        assert {v.dtype for v in (latents, *features.values())} == {torch.float32}
        grads.append((latents, *features.values()))
    for exact, rough in zip(*grads):
        error = (exact - rough).square().mean().sqrt()
        assert 0 < error < 0.05 * exact.square().mean().sqrt()
    (grad,) = torch.autograd.grad(sum(f.sum() for f in grads[1]), x)
    assert grad.dtype == torch.float32 and grad.abs().max() > 0


def test_random_weights(pipeline):
    torch.manual_seed(1)
    drawn = DiffusionModel.from_pretrained(str(pipeline), random_weights=True)
    read = load(pipeline)
    for name in ('unet.conv_in.weight', 'vae.encoder.conv_in.weight'):
        assert not torch.equal(read.get_parameter(name), drawn.get_parameter(name))
    assert drawn.prompt_embeds.shape == (1, 77, 8)
    cat, again, dog = (load(prompt=p).prompt_embeds for p in ('cat', 'cat', 'dog'))
    assert torch.equal(cat, again) and not torch.equal(cat, dog)


def test_sampling_repeats():
    model = load()
    draw = [
        model.sample((2, 64, 64), 2, torch.Generator().manual_seed(1)) for _ in range(2)
    ]
    assert torch.equal(*draw) and draw[0].shape == (2, 3, 64, 64)
    assert draw[0].abs().max() <= 1 and not torch.equal(draw[0][0], draw[0][1])
    with pytest.raises(ValueError, match='guidance=3'):
        model.sample((1, 64, 64), 2, guidance=3)


def edit(config, **changes):
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))


def damaged_vae(folder):
    weights = folder / 'vae' / 'diffusion_pytorch_model.safetensors'
    weights.write_bytes(weights.read_bytes()[:-100])


def damaged_text_encoder(folder):
    weights = folder / 'text_encoder' / 'model.safetensors'
    weights.write_bytes(weights.read_bytes()[:-100])


def wrong_text_encoder(folder):
    weights = folder / 'text_encoder' / 'model.safetensors'
    state = safetensors.torch.load_file(weights)
    state.pop('text_model.final_layer_norm.weight')
    safetensors.torch.save_file(state, weights, {'format': 'pt'})


def wide_text_encoder(folder):
    (folder / 'words/vocab.json').unlink()
    (folder / 'words/merges.txt').unlink()
    (folder / 'words').rmdir()
    save_text_encoder(folder, 16)


def inpainting(folder):
    UNet2DConditionModel(**UNET, in_channels=9).save_pretrained(folder / 'unet')


@pytest.mark.parametrize(
    'spoil, error, words',
    [
        (damaged_vae, ValueError, 'cut short or damaged'),
        (damaged_text_encoder, ValueError, 'cut short or damaged'),
        (wrong_text_encoder, ValueError, "final_layer_norm.weight' is missing"),
        (wide_text_encoder, ValueError, 'gives 16 channels, the U-Net takes 8'),
        (inpainting, ValueError, 'takes 9 channels, the VAE gives 4'),
        (
            lambda folder: (folder / 'tokenizer').rename(folder / 'other'),
            FileNotFoundError,
            'no text_encoder',
        ),
        (
            lambda folder: (folder / 'scheduler/scheduler_config.json').unlink(),
            FileNotFoundError,
            'no scheduler_config.json',
        ),
        (
            lambda folder: edit(
                folder / 'unet/config.json', addition_embed_type='text_time'
            ),
            ValueError,
            'addition_time_embed_dim=None .*SDXL has 6 sizes',
        ),
        (
            lambda folder: edit(
                folder / 'vae/config.json', _class_name='AutoencoderTiny'
            ),
            ValueError,
            'an? AutoencoderKL is needed',
        ),
    ],
)
def test_bad_folders_are_one_sentence(pipeline, spoil, error, words):
    spoil(pipeline)
    with pytest.raises(error, match=words) as caught:
        load(pipeline)
    assert '\n' not in str(caught.value)


def test_bad_arguments_are_one_sentence(pipeline):
    model = load()
    x = torch.zeros(1, 4, 8, 8)
    for call, error, words in (
        (lambda: load(TINY_UNET, prompt='cat'), ValueError, 'prompt belongs to a lat'),
        (lambda: load(latent='mode'), ValueError, "latent='mode' is unknown"),
        (lambda: load(prompt=['cat']), TypeError, 'one string'),
        (lambda: load(pipeline, prompt='a' * 40), ValueError, 'takes 12: shorten'),
        (lambda: load(dict(type='LatentDiffusion', unet=UNET)), ValueError, 'not unet'),
        (lambda: load({**CONFIG, 'unet': {**UNET, 'num_class_embeds': 3}}),)
        + (ValueError, 'num_class_embeds=3'),
        (lambda: model.encode(torch.zeros(1, 3, 64, 72)),)
        + (ValueError, '64x72 .*pad_size_divisor=64'),
        (lambda: model.features(x, 0, ['mid'], torch.tensor([1])),)
        + (ValueError, r'embeddings of shape \(1, L, 8\), not \(1,\)'),
        (lambda: model.features(x, 0, ['mid'], torch.zeros(2, 5, 8)),)
        + (ValueError, r'not \(2, 5, 8\)'),
    ):
        with pytest.raises(error, match=words) as caught:
            call()
        assert '\n' not in str(caught.value)


@pytest.mark.parametrize('kind', ['safetensors', 'bin'])
def test_hub_gives_one_copy_of_what_is_needed(pipeline, tmp_path, monkeypatch, kind):
    """Of a repository with all that Stable Diffusion's has."""
    needed, other = {path for path in pipeline.rglob('*') if path.is_file()}, set()
    needed = {str(p.relative_to(pipeline)) for p in needed if 'words' not in str(p)}
    weights = {name for name in needed if name.endswith('.safetensors')}
    for name in weights:
        stem = name.removesuffix('.safetensors')
        text = stem.startswith('text')
        other.add(f'{stem.replace("/model", "/pytorch_model") if text else stem}.bin')
        other |= {f'{stem}.fp16.safetensors', f'{stem}.non_ema.safetensors'}
    other |= {'v1-5-pruned.safetensors', 'safety_checker/model.safetensors'}
    if kind == 'bin':
        bins = {name for name in other if name.endswith('.bin')}
        needed, other = (needed - weights) | bins, other - bins

    def snapshot(source, cache_dir=None, allow_patterns=None):
        filtered = huggingface_hub.utils.filter_repo_objects(
            needed | other, allow_patterns=allow_patterns
        )
        fetched.update(filtered)
        folder = tmp_path / 'snapshot'
        for name in fetched:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        return folder

    fetched = set()
    monkeypatch.setattr('huggingface_hub.snapshot_download', snapshot)
    assert locate('owner/name') == tmp_path / 'snapshot'
    assert fetched == needed


def backbone(source, from_pretrained=None, **kwargs):
    args = dict(timestep=10, out_indices=TAPS)
    model = dict(source=str(source), prompt=PROMPT, **(from_pretrained or {}))
    return DiffusionUNet(model, **{**args, **kwargs})


def detector(make_detector, source, prompt=PROMPT):
    """The tiny detector of conftest, its neck on taps of equal channels."""
    return make_detector(
        'faster-rcnn',
        'diffusion',
        model=dict(source=str(source), prompt=prompt),
        out_indices=('up.3.1', 'up.2'),
    )


@pytest.mark.parametrize('with_cp', [False, True])
def test_backbone(pipeline, with_cp):
    plain = backbone(pipeline)
    model = backbone(pipeline, with_cp=with_cp)
    before = {k: v.clone() for k, v in model.model.state_dict().items()}
    model.init_weights()
    after = model.model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert not any(p.requires_grad for p in model.parameters())
    x = torch.rand(2, 3, 64, 128, requires_grad=True)
    out = model.train()(x)
    assert [tuple(f.shape) for f in out] == [
        (2, 4, 8, 16),
        (2, 8, 8, 16),
        (2, 8, 2, 4),
        (2, 8, 1, 2),
    ]
    (grad,) = torch.autograd.grad(sum(f.sum() for f in out), x)
    assert (grad.flatten(1).abs().sum(1) > 0).all()
    (expected,) = torch.autograd.grad(sum(f.sum() for f in plain(x)), x)
    assert torch.allclose(grad, expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match='64x96 .*pad_size_divisor=64'):
        model(torch.zeros(1, 3, 64, 96))


def test_training_leaves_the_vae_alone(pipeline):
    model = backbone(pipeline, frozen=False, out_indices=('up.3.1',)).train()
    model(torch.rand(1, 3, 64, 64))[0].square().sum().backward()
    assert all(p.grad is None for p in model.model.vae.parameters())
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained and all(p.grad is not None for p in trained)


def test_detector_is_attacked_and_its_checkpoint_is_small(
    make_detector, pipeline, tmp_path
):
    model = detector(make_detector, pipeline)
    model.data_preprocessor.pad_size_divisor = 64
    batch = batch_of([(3, 64, 96)])
    result = run(PGD(eps=4, steps=1), model, batch)
    (adversarial,) = result.inputs
    change = (adversarial - batch['inputs'][0]).abs()
    assert 0 < change.max() <= 4 + 1e-4
    assert result.stats.changed == 1 and result.stats.zero_grads == 0
    state = model.state_dict()
    assert not any(key.startswith('backbone.model') for key in state)
    file = str(tmp_path / 'checkpoint.pth')
    save_checkpoint(dict(state_dict=state), file)
    load_checkpoint(detector(make_detector, pipeline), file, strict=True)
    with pytest.raises(ValueError, match='another frozen prior'):
        detector(make_detector, pipeline, 'a dog').load_state_dict(state)


def test_prompt_of_a_whole_checkpoint_is_compared():
    state = load(prompt='cat').state_dict()
    load(prompt='cat').load_state_dict(state)
    with pytest.raises(ValueError, match='trained with another prompt'):
        load(prompt='dog').load_state_dict(state)


def test_fingerprint_is_that_of_the_prompt_not_of_its_rounding(pipeline, tmp_path):
    first = backbone(pipeline, dict(cache_dir=str(tmp_path / 'one')))
    # Another machine's embedding of the same prompt.
    (file,) = (tmp_path / 'one/prompts').iterdir()
    embedding = safetensors.torch.load_file(file)['prompt_embeds'] * (1 + 1e-6)
    write_embedding(file, PROMPT, PromptEmbedding(embedding))
    again = backbone(pipeline, dict(cache_dir=str(tmp_path / 'one')))
    assert not torch.equal(first.model.prompt_embeds, again.model.prompt_embeds)
    again.load_state_dict(first.state_dict())
