"""SDXL: two text encoders, a pooled prompt and sizes, as diffusers' pipeline has it."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from test_latent import VAE, edit, load, no_transformers, save_text_encoder

from mmdiff.diffusion import SDXLDiffusionModel
from mmdiff.diffusion.hub import locate
from mmdiff.models import DiffusionUNet

# SDXL, shrunk: three levels, encoders of 8 and 12 channels, 10 pooled.
UNET = dict(
    sample_size=16,
    block_out_channels=(4, 8, 8),
    down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D'),
    up_block_types=('CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D'),
    layers_per_block=1,
    attention_head_dim=(1, 2, 2),
    transformer_layers_per_block=(1, 1, 2),
    use_linear_projection=True,
    norm_num_groups=2,
    cross_attention_dim=20,
    addition_embed_type='text_time',
    addition_time_embed_dim=4,
    projection_class_embeddings_input_dim=34,
)
CONFIG = dict(type='LatentDiffusion', unet=UNET, vae=VAE)
PROMPT = 'a cat'


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def encoder(kind, width):
    from transformers import CLIPTextConfig

    config = CLIPTextConfig(
        vocab_size=54,
        hidden_size=width,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        bos_token_id=52,
        eos_token_id=53,
        projection_dim=10,
    )
    return kind(config).eval()


def make_pipeline(folder):
    """A tiny StableDiffusionXLPipeline with random weights."""
    words, _ = save_text_encoder(folder)
    from diffusers import StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    # SDXL's second tokenizer pads with another token than its first.
    second = type(words).from_pretrained(folder / 'tokenizer', pad_token='a')
    words.model_max_length = second.model_max_length = 12
    return StableDiffusionXLPipeline(
        vae=AutoencoderKL(**VAE),
        text_encoder=encoder(CLIPTextModel, 8),
        text_encoder_2=encoder(CLIPTextModelWithProjection, 12),
        tokenizer=words,
        tokenizer_2=second,
        unet=UNet2DConditionModel(**UNET),
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule='scaled_linear'
        ),
        add_watermarker=False,
    )


@pytest.fixture
def pipeline(tmp_path):
    """Its folder, and the pipeline itself."""
    (tmp_path / 'words').mkdir()
    pipe = make_pipeline(tmp_path / 'words')
    pipe.save_pretrained(tmp_path / 'sdxl')
    pipe.set_progress_bar_config(disable=True)
    return tmp_path / 'sdxl', pipe


@pytest.mark.parametrize('sizes', [None, (512, 384, 8, 16, 64, 256)])
def test_predictions_are_those_of_diffusers_pipeline(pipeline, sizes):
    """Prompt, pooled prompt and sizes as its call gives them to the U-Net."""
    folder, pipe = pipeline
    calls = []

    def record(_module, args, kwargs, out):
        calls.append((*args, kwargs['added_cond_kwargs'], out[0]))

    handle = pipe.unet.register_forward_hook(record, with_kwargs=True)
    given = {}
    if sizes is not None:
        given = dict(
            original_size=sizes[:2],
            crops_coords_top_left=sizes[2:4],
            target_size=sizes[4:],
        )
    pipe(
        PROMPT,
        height=64,
        width=128,
        num_inference_steps=2,
        guidance_scale=1.0,
        output_type='latent',
        **given,
    )
    handle.remove()
    model = load(folder, prompt=PROMPT, time_ids=sizes)
    assert isinstance(model, SDXLDiffusionModel) and len(calls) == 2
    for sample, t, added, expected in calls:
        with torch.no_grad():
            assert torch.equal(model.size_ids(sample), added['time_ids'].float())
            pooled = model.pooled_prompt_embeds
            assert torch.allclose(pooled, added['text_embeds'], atol=1e-6)
            assert torch.allclose(model.predict(sample, t), expected, atol=1e-5)


def test_the_image_decodes_to_that_of_diffusers_pipeline(pipeline):
    folder, pipe = pipeline
    model, latents = load(folder), torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        expected = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
        assert torch.allclose(model.decode(latents), expected, atol=1e-6)


def test_every_tap_is_what_the_full_forward_computes_there():
    model = load(CONFIG)
    x, t = torch.randn(2, 4, 8, 16), torch.tensor([7, 300])
    recorded, handles = {}, []

    def record(name):
        def hook(_module, _args, out):
            recorded[name] = out[0] if isinstance(out, tuple) else out

        return hook

    for side in ('down', 'up'):
        for i, block in enumerate(getattr(model.unet, f'{side}_blocks')):
            handles.append(block.register_forward_hook(record(f'{side}.{i}')))
            for j, layer in enumerate(getattr(block, 'attentions', block.resnets)):
                handles.append(layer.register_forward_hook(record(f'{side}.{i}.{j}')))
    handles.append(model.unet.mid_block.register_forward_hook(record('mid')))
    added = {
        'text_embeds': model.pooled_prompt_embeds.expand(2, -1),
        'time_ids': torch.tensor([[64.0, 128, 0, 0, 64, 128]] * 2),
    }
    prompts = model.prompt_embeds.expand(2, -1, -1)
    with torch.no_grad():
        expected = model.unet(x, t, prompts, added_cond_kwargs=added).sample
        for handle in handles:
            handle.remove()
        assert torch.equal(model.predict(x, t), expected)
        features = model.features(x, t, list(recorded))
    assert set(recorded) == {info.name for info in model.feature_info}
    for name, value in features.items():
        assert torch.allclose(value, recorded[name], atol=1e-6), name


def test_sizes_and_pooled_prompts_change_features_and_gradients_flow():
    x = torch.rand(1, 3, 64, 64, requires_grad=True)
    outputs = []
    for given in ({}, {'time_ids': (512, 512, 0, 0, 64, 64)}, {'prompt': 'a dog'}):
        model = load(CONFIG, **given)
        outputs.append(model.features(model.encode(x), 10, ['up.1'])['up.1'])
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-5)
    assert not torch.allclose(outputs[0], outputs[2], atol=1e-5)
    (grad,) = torch.autograd.grad(outputs[0].square().sum(), x)
    assert grad.isfinite().all() and grad.abs().max() > 0


def test_a_saved_prior_needs_no_transformers(pipeline, tmp_path, monkeypatch):
    model = load(pipeline[0], prompt=PROMPT)
    model.save_pretrained(tmp_path / 'saved')
    no_transformers(monkeypatch)
    again = load(tmp_path / 'saved', prompt=PROMPT)
    x = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        assert torch.equal(again.predict(x, 5), model.predict(x, 5))
    # From the cache too, pooled vector and all.
    cached = load(pipeline[0], prompt=PROMPT)
    assert torch.equal(cached.pooled_prompt_embeds, model.pooled_prompt_embeds)
    with pytest.raises(ImportError, match='needs transformers.*prompt embeddings'):
        load(pipeline[0], prompt='a dog')


def test_checkpoints_know_the_sizes():
    state = load(CONFIG, time_ids=(512, 512, 0, 0, 64, 64)).state_dict()
    load(CONFIG, time_ids=[512, 512, 0, 0, 64, 64]).load_state_dict(state)
    with pytest.raises(ValueError, match='or other time_ids'):
        load(CONFIG).load_state_dict(state)


def test_float16_leaves_the_vae_in_float32_as_diffusers_does():
    model = load(CONFIG, dtype='fp16')
    assert (model.unet.dtype, model.vae.dtype) == (torch.float16, torch.float32)
    assert load(CONFIG, dtype='bf16').vae.dtype == torch.bfloat16
    with pytest.raises(ValueError, match='overflows in float16'):
        model.half().encode(torch.zeros(1, 3, 64, 64))


def test_bfloat16_sees_the_same_sizes():
    exact, half = load(CONFIG), load(CONFIG, dtype='bf16')
    x = torch.randn(1, 4, 8, 16)
    assert half.size_ids(x).dtype == torch.float32
    with torch.no_grad():
        one, other = (m.features(x, 5, ['mid'])['mid'] for m in (exact, half))
    assert other.dtype == torch.float32
    assert 0 < (one - other).square().mean() < 0.05**2 * one.square().mean()


def test_the_backbone_takes_it():
    model = dict(source=CONFIG, time_ids=(1024, 1024, 0, 0, 1024, 1024))
    backbone = DiffusionUNet(model, timestep=1, out_indices=('up.2', 'mid'))
    out = backbone(torch.rand(2, 3, 64, 64))
    assert [tuple(f.shape) for f in out] == [(2, 4, 8, 8), (2, 8, 2, 2)]


def refiner(folder):
    index = json.loads((folder / 'model_index.json').read_text())
    index.update(text_encoder=[None, None], tokenizer=[None, None])
    (folder / 'model_index.json').write_text(json.dumps(index))


@pytest.mark.parametrize(
    'spoil, words',
    [
        (refiner, "a part 'text_encoder_2' .CLIPTextModelWithProjection. that is not"),
        (
            lambda folder: edit(folder / 'unet/config.json', time_cond_proj_dim=4),
            'time_cond_proj_dim=4 .*Stable Diffusion 1.x, 2.x or SDXL',
        ),
        (
            lambda folder: edit(
                folder / 'unet/config.json', addition_embed_type='text_image'
            ),
            "addition_embed_type='text_image'",
        ),
        (
            lambda folder: edit(
                folder / 'unet/config.json', projection_class_embeddings_input_dim=20
            ),
            'SDXL has 6 sizes and a pooled prompt',
        ),
        (
            lambda folder: edit(
                folder / 'model_index.json',
                text_encoder_2=['transformers', 'T5EncoderModel'],
            ),
            'a T5EncoderModel where a CLIPTextModelWithProjection is needed',
        ),
    ],
)
def test_relatives_are_refused_before_weights_are_read(
    pipeline, spoil, words, monkeypatch
):
    def read(*_args, **_kwargs):
        raise AssertionError('weights were read')

    monkeypatch.setattr('mmdiff.diffusion.weights.find_weights', read)
    spoil(pipeline[0])
    with pytest.raises(ValueError, match=words) as caught:
        load(pipeline[0])
    assert '\n' not in str(caught.value)


def test_wrong_arguments_are_one_sentence():
    model, x = load(CONFIG), torch.zeros(1, 4, 8, 8)
    other = {**CONFIG, 'unet': {**UNET, 'addition_embed_type': None}}
    for call, error, words in (
        (lambda: load(CONFIG, time_ids=(1, 2)), TypeError, 'not six whole numbers'),
        (lambda: load(CONFIG, time_ids=(1, 2, 3, 4, 5, 6.5)), TypeError, 'six whole'),
        (lambda: load(other, time_ids=(1,) * 6), ValueError, 'time_ids belongs to SD'),
        (lambda: model.features(x, 0, ['mid'], torch.zeros(1, 5, 20)),)
        + (ValueError, 'one prompt with its pooled vector'),
    ):
        with pytest.raises(error, match=words) as caught:
            call()
        assert '\n' not in str(caught.value)


def test_the_hub_gives_both_text_encoders(tmp_path, monkeypatch):
    fetched = []
    (tmp_path / 'unet').mkdir()
    (tmp_path / 'unet/diffusion_pytorch_model.safetensors').touch()

    def snapshot(_source, cache_dir=None, allow_patterns=None):
        fetched.extend(allow_patterns)
        return tmp_path

    monkeypatch.setattr('huggingface_hub.snapshot_download', snapshot)
    locate('owner/name')
    for name in ('text_encoder_2/model.safetensors', 'tokenizer_2/merges.txt'):
        assert name in fetched
