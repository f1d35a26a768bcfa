"""Sources of others: read as their files say, or refused before weights are read."""

import importlib.util
import json
from pathlib import Path

import diffusers
import pytest
import torch
from conftest import TINY_UNET
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    PNDMScheduler,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from test_ddpm import build
from test_latent import UNET, VAE

from mmdiff import DiffusionModel

PIXEL = {key: value for key, value in TINY_UNET.items() if key != 'type'}
BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule='scaled_linear')
# Every class of diffusers with a table of alpha_bar.
VARIANCE_PRESERVING = (
    'DDIMInverseScheduler',
    'DDIMParallelScheduler',
    'DDIMScheduler',
    'DDPMParallelScheduler',
    'DDPMScheduler',
    'DEISMultistepScheduler',
    'DPMSolverMultistepInverseScheduler',
    'DPMSolverMultistepScheduler',
    'DPMSolverSinglestepScheduler',
    'EulerAncestralDiscreteScheduler',
    'EulerDiscreteScheduler',
    'HeunDiscreteScheduler',
    'KDPM2AncestralDiscreteScheduler',
    'KDPM2DiscreteScheduler',
    'LCMScheduler',
    'LMSDiscreteScheduler',
    'PNDMScheduler',
    'RePaintScheduler',
    'SASolverScheduler',
    'TCDScheduler',
    'UnCLIPScheduler',
    'UniPCMultistepScheduler',
    'CogVideoXDDIMScheduler',
    'CogVideoXDPMScheduler',
)
OTHERS = (
    'AmusedScheduler',
    'CMStochasticIterativeScheduler',
    'CosineDPMSolverMultistepScheduler',
    'DDPMWuerstchenScheduler',
    'EDMDPMSolverMultistepScheduler',
    'EDMEulerScheduler',
    'FlowMatchEulerDiscreteScheduler',
    'FlowMatchHeunDiscreteScheduler',
    'FlowMatchLCMScheduler',
    'IPNDMScheduler',
    'KarrasVeScheduler',
    'SCMScheduler',
    'ScoreSdeVeScheduler',
    'ScoreSdeVpScheduler',
    'VQDiffusionScheduler',
)


def has(name):
    """Whether this diffusers has a class, with what it needs."""
    try:
        return getattr(diffusers, name).from_config is not None
    except (AttributeError, ImportError):
        return False


def write_schedule(folder, **config):
    (folder / 'scheduler_config.json').write_text(json.dumps(config))


@pytest.fixture
def folder(tmp_path):
    build().save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def no_weights_read(monkeypatch):
    def read(*_args, **_kwargs):
        raise AssertionError('weights were read')

    monkeypatch.setattr('mmdiff.diffusion.weights.find_weights', read)


def load(folder, **kwargs):
    return DiffusionModel.from_pretrained(folder, **kwargs)


def refused(folder, words, **kwargs):
    with pytest.raises((ValueError, FileNotFoundError), match=words) as caught:
        load(folder, **kwargs)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', [n for n in VARIANCE_PRESERVING if has(n)])
@pytest.mark.parametrize('config', [{}, BETAS], ids=['defaults', 'betas'])
def test_alpha_bar_is_that_of_the_files_own_class(folder, name, config):
    if name == 'UnCLIPScheduler':
        config = {}
    original = getattr(diffusers, name).from_config({**config})
    write_schedule(folder, _class_name=name, **config)
    table = load(folder).alphas_cumprod
    assert torch.allclose(table, original.alphas_cumprod.float(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize('name', OTHERS)
def test_schedules_that_are_not_variance_preserving_are_refused_by_name(
    folder, name, no_weights_read
):
    write_schedule(folder, _class_name=name)
    refused(folder, f'{name}, which')


def test_every_scheduler_of_diffusers_is_read_or_refused(folder):
    """So that a new one is never taken for DDPM's."""
    names = [n for n in dir(diffusers) if n.endswith('Scheduler') and n[:4] != 'Flax']
    for name in names:
        write_schedule(folder, _class_name=name)
        try:
            table = load(folder).alphas_cumprod
        except ValueError as error:
            assert name in str(error)
            assert name not in VARIANCE_PRESERVING
        else:
            original = getattr(diffusers, name).from_config({})
            expected = original.alphas_cumprod.float()
            assert torch.allclose(table, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    'config',
    [
        dict(_class_name='EulerDiscreteScheduler', timestep_type='continuous'),
        dict(_class_name='DPMSolverMultistepScheduler', use_flow_sigmas=True),
        dict(_class_name='UniPCMultistepScheduler', use_flow_sigmas=True),
    ],
)
def test_noise_levels_and_flows_under_ddpms_names_are_refused(
    folder, config, no_weights_read
):
    write_schedule(folder, **config)
    refused(folder, f'{config["_class_name"]}, which is not variance preserving')


def test_flow_predictions_are_refused(folder, no_weights_read):
    name = 'DPMSolverMultistepScheduler'
    write_schedule(folder, _class_name=name, prediction_type='flow_prediction')
    refused(folder, "prediction_type='flow_prediction' is unknown")


def test_a_file_from_before_prediction_type_says_what_is_predicted(folder):
    write_schedule(folder, _class_name='DDPMScheduler', predict_epsilon=False)
    assert load(folder).prediction_type == 'sample'


def test_an_unknown_scheduler_is_named(folder, no_weights_read):
    write_schedule(folder, _class_name='NovelScheduler')
    refused(folder, 'NovelScheduler, which diffusers')


def test_the_layout_of_ncsnpp_is_refused(tmp_path, no_weights_read):
    """A VE process: fourier embeddings of noise levels, output divided by them."""
    unet = {**PIXEL, 'time_embedding_type': 'fourier'}
    UNet2DModel(**unet).save_pretrained(tmp_path)
    write_schedule(tmp_path, _class_name='ScoreSdeVeScheduler', sigma_max=1348.0)
    refused(tmp_path, 'ScoreSdeVeScheduler, which')
    refused(tmp_path, "'fourier'", schedule=dict(beta_schedule='linear'))
    DDPMScheduler().save_pretrained(tmp_path)
    refused(tmp_path, "time_embedding_type='fourier'")
    with pytest.raises(ValueError, match="time_embedding_type='fourier'"):
        load({**TINY_UNET, 'time_embedding_type': 'fourier'})


def test_learned_embeddings_of_timesteps_are_right_or_refused():
    config = {**TINY_UNET, 'time_embedding_type': 'learned', 'num_train_timesteps': 100}
    with pytest.raises(ValueError, match='of 100 timesteps and the noise schedule has'):
        load(config)
    model = load(config, schedule=dict(num_train_timesteps=100))
    x, t = torch.randn(2, 3, 32, 32), torch.tensor([3, 99])
    with torch.no_grad():
        assert torch.equal(model.predict(x, t), model.unet(x, t).sample)
        assert model.features(x, 99, ['mid'])['mid'].isfinite().all()


def test_embedded_classes_are_refused():
    with pytest.raises(ValueError, match="class_embed_type='identity'"):
        load({**TINY_UNET, 'class_embed_type': 'identity'})


# --------------------------------------------------------------------------------------
# Pipelines


def save_parts(root, index=None, scheduler=None, **parts):
    """Write a pipeline whose parts are networks of diffusers."""
    listed = {'_class_name': 'SomePipeline'}
    for name, part in parts.items():
        part.save_pretrained(root / name)
        listed[name] = ['diffusers', type(part).__name__]
    (scheduler or DDPMScheduler()).save_pretrained(root / 'scheduler')
    listed['scheduler'] = ['diffusers', 'DDPMScheduler']
    (root / 'model_index.json').write_text(json.dumps({**listed, **(index or {})}))


def vq_model():
    return VQModel(
        block_out_channels=(4, 4),
        down_block_types=('DownEncoderBlock2D',) * 2,
        up_block_types=('UpDecoderBlock2D',) * 2,
        norm_num_groups=2,
    )


@pytest.mark.parametrize('name', ['vqvae', 'movq', 'decoder'])
@pytest.mark.parametrize('index', [True, False], ids=['index', 'folders'])
def test_a_latent_pipeline_is_no_pixel_prior_whatever_its_parts_are_called(
    tmp_path, name, index, no_weights_read
):
    """The layout of CompVis/ldm-celebahq-256: latents of three channels."""
    save_parts(tmp_path, unet=UNet2DModel(**PIXEL), **{name: vq_model()})
    if not index:
        (tmp_path / 'model_index.json').unlink()
    refused(tmp_path, f"a part '{name}' .VQModel. that is not supported")
    if index:
        refused(tmp_path / 'unet', f"a part '{name}' .VQModel.")
        refused(tmp_path, f"a part '{name}'", subfolder='unet')


def test_an_unconditional_latent_pipeline_is_refused(tmp_path, no_weights_read):
    save_parts(tmp_path, unet=UNet2DModel(**PIXEL), vae=AutoencoderKL(**VAE))
    refused(tmp_path, 'a UNet2DModel on the latents of a AutoencoderKL')
    refused(tmp_path / 'unet', 'a UNet2DModel on the latents')


def test_a_link_into_a_latent_pipeline_is_no_pixel_prior(
    tmp_path, monkeypatch, no_weights_read
):
    """What is above a link, or above '.', is not seen in its name."""
    save_parts(tmp_path / 'ldm', unet=UNet2DModel(**PIXEL), vqvae=vq_model())
    link = tmp_path / 'link'
    link.symlink_to(tmp_path / 'ldm' / 'unet')
    betas = dict(beta_schedule='linear')
    refused(link, "a part 'vqvae' .VQModel. that is not supported", schedule=betas)
    monkeypatch.chdir(tmp_path / 'ldm' / 'unet')
    refused('.', "a part 'vqvae' .VQModel.", schedule=betas)


def test_a_link_has_the_schedule_of_its_pipeline(tmp_path):
    unet, scheduler = UNet2DModel(**PIXEL), DDPMScheduler(**BETAS)
    save_parts(tmp_path / 'ddpm', scheduler=scheduler, unet=unet)
    link = tmp_path / 'link'
    link.symlink_to(tmp_path / 'ddpm' / 'unet')
    table = load(tmp_path / 'ddpm').alphas_cumprod
    assert torch.equal(load(link).alphas_cumprod, table)


@pytest.mark.parametrize(
    'vae, words',
    [
        (dict(latents_mean=[1.0] * 4, latents_std=[2.0] * 4), 'channel by channel'),
        (dict(scaling_factor=0.0), 'no scaling_factor above 0'),
        (dict(scaling_factor=None), 'no scaling_factor above 0'),
        (dict(in_channels=1), 'takes images of 1 channels'),
    ],
)
def test_autoencoders_of_other_latents_are_refused(
    tmp_path, vae, words, no_weights_read
):
    parts = dict(unet=UNet2DConditionModel(**UNET), vae=AutoencoderKL(**{**VAE, **vae}))
    save_parts(tmp_path, **parts)
    refused(tmp_path, words)


def test_quantised_weights_are_refused(folder, no_weights_read):
    config = json.loads((folder / 'config.json').read_text())
    config['quantization_config'] = dict(quant_method='bitsandbytes')
    (folder / 'config.json').write_text(json.dumps(config))
    refused(folder, 'weights of this U-Net are quantised')


@pytest.mark.parametrize(
    'schedule, words',
    [
        ('linear', "schedule='linear' must be a dict"),
        ([1], r'schedule=\[1\] must be a dict'),
        (dict(num_train_timesteps=0), 'has no timesteps'),
        (dict(beta_end=2.0), 'does not fall from 1 to 0; give the betas'),
        (
            dict(beta_end=2.0, prediction_type='v_prediction'),
            'does not fall from 1 to 0; give the betas',
        ),
        (dict(beta_schedule='shifted_cosine', shift=0), 'shift=0 of the schedule must'),
        (dict(beta_schedule='shifted_cosine', shift='a'), "shift='a' of the schedule"),
    ],
)
def test_a_schedule_that_is_none_is_one_sentence(folder, schedule, words):
    refused(folder, words, schedule=schedule)
    refused(TINY_UNET, words, schedule=schedule)


@pytest.mark.parametrize('config', [dict(trained_betas=[]), dict(beta_end=2.0)])
def test_a_file_with_impossible_betas_is_one_sentence(folder, config, no_weights_read):
    write_schedule(folder, _class_name='DDIMScheduler', **config)
    refused(folder, 'has no timesteps|does not fall from 1 to 0')


def test_other_autoencoders_and_encoders_are_refused(tmp_path, no_weights_read):
    unet = UNet2DConditionModel(**UNET)
    save_parts(tmp_path / 'a', unet=unet, vae=vq_model())
    refused(tmp_path / 'a', 'a VQModel where an AutoencoderKL is needed')
    parts = {
        'image_encoder': ['transformers', 'CLIPVisionModelWithProjection'],
        'text_encoder_2': ['transformers', 'CLIPTextModelWithProjection'],
        'low_res_scheduler': ['diffusers', 'DDPMScheduler'],
        'text_encoder': ['alt', 'RobertaSeriesModelWithTransformation'],
    }
    for name, value in parts.items():
        root = tmp_path / name
        vae = AutoencoderKL(**VAE)
        save_parts(root, {name: value}, unet=unet, vae=vae)
        refused(root, value[1] if name == 'text_encoder' else f"a part '{name}'")


def test_a_transformer_is_refused_with_what_is_supported(tmp_path, no_weights_read):
    index = {
        '_class_name': 'DiTPipeline',
        'transformer': ['diffusers', 'DiTTransformer2DModel'],
    }
    (tmp_path / 'unet').mkdir()  # and no config in it
    (tmp_path / 'unet').rmdir()
    (tmp_path / 'model_index.json').write_text(json.dumps(index))
    refused(tmp_path, 'DiTPipeline.*a transformer .DiTTransformer2DModel.*supported')


def test_a_part_that_is_null_is_not_there(tmp_path):
    index = {'image_encoder': [None, None], 'requires_safety_checker': True}
    save_parts(tmp_path, index, unet=UNet2DModel(**PIXEL))
    assert load(tmp_path).encoder_stride == 1
    assert load(tmp_path, subfolder='unet').encoder_stride == 1


# --------------------------------------------------------------------------------------
# Schedules that are given


def test_a_kind_of_prediction_alone_leaves_the_files_betas(folder):
    PNDMScheduler(**BETAS).save_pretrained(folder)
    exact = load(folder).alphas_cumprod
    given = load(folder, schedule=dict(prediction_type='v_prediction'))
    assert given.prediction_type == 'v_prediction'
    assert torch.equal(given.alphas_cumprod, exact)


def test_betas_alone_leave_the_files_kind_of_prediction(folder):
    PNDMScheduler(**BETAS, prediction_type='v_prediction').save_pretrained(folder)
    given = load(folder, schedule=dict(beta_schedule='linear'))
    assert given.prediction_type == 'v_prediction'
    assert torch.equal(given.alphas_cumprod, DDPMScheduler().alphas_cumprod)


def test_a_kind_of_prediction_without_a_file_is_no_schedule(folder):
    (folder / 'scheduler_config.json').unlink()
    refused(folder, 'no scheduler_config', schedule=dict(prediction_type='epsilon'))
    assert load(folder, schedule=dict(beta_schedule='linear')).num_train_timesteps


@pytest.mark.parametrize('name', ['DDPMScheduler', 'EulerDiscreteScheduler'])
def test_noise_predicted_where_only_noise_is_left_is_refused(folder, name):
    zero = dict(rescale_betas_zero_snr=True)
    write_schedule(folder, _class_name=name, **zero)
    refused(folder, 'zero terminal SNR')
    model = load(folder, schedule=dict(prediction_type='v_prediction'))
    with torch.no_grad():
        x0 = model.predict_x0(torch.randn(1, 3, 32, 32), 999)
    assert x0.isfinite().all()


# --------------------------------------------------------------------------------------
# Files


@pytest.mark.parametrize('case', ['fp16', 'shards', 'fp16-shards'])
def test_variants_and_shards_give_the_same_weights(folder, case):
    model = load(folder)
    for file in folder.glob('*.safetensors'):
        file.unlink()
    variant = 'fp16' if 'fp16' in case else None
    size = '20KB' if 'shards' in case else '10GB'
    model.unet.save_pretrained(folder, variant=variant, max_shard_size=size)
    assert (len(list(folder.glob('*.safetensors'))) > 1) == ('shards' in case)
    again = load(folder, variant=variant)
    assert again.fingerprint() == model.fingerprint()
    if variant and 'shards' not in case:
        refused(folder, "has weights of variant='fp16' and you asked for no variant")
        refused(folder, "variant='fp16' and you asked for variant='odd'", variant='odd')


def test_a_missing_shard_is_named(folder):
    model = load(folder)
    (folder / 'diffusion_pytorch_model.safetensors').unlink()
    model.unet.save_pretrained(folder, max_shard_size='20KB')
    sorted(folder.glob('*.safetensors'))[0].unlink()
    refused(folder, 'lacks the part diffusion_pytorch_model-00001')


def test_a_variant_in_half_precision_is_run_in_full(folder):
    model = load(folder)
    model.unet.half().save_pretrained(folder, variant='fp16')
    again = load(folder, variant='fp16')
    assert again.unet.dtype == torch.float32
    assert again.fingerprint() == model.fingerprint(torch.float16) or all(
        torch.equal(a, b.float())
        for a, b in zip(again.parameters(), model.parameters())
    )


POINTER = 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n'


@pytest.mark.parametrize(
    'file, content, words',
    [
        ('config.json', '{"a": ', 'config.json is not JSON'),
        ('config.json', '[1]', 'holds a list'),
        ('config.json', POINTER, 'pointer of git-lfs'),
        ('scheduler_config.json', '{"a": ', 'scheduler_config.json is not JSON'),
        ('scheduler_config.json', POINTER, 'pointer of git-lfs'),
        ('diffusion_pytorch_model.safetensors', POINTER, 'pointer of git-lfs'),
    ],
)
def test_broken_files_are_named_with_their_cause(folder, file, content, words):
    (folder / file).write_text(content)
    refused(folder, words)


def test_a_broken_index_is_named(tmp_path):
    save_parts(tmp_path, unet=UNet2DModel(**PIXEL))
    (tmp_path / 'model_index.json').write_text('{"a": ')
    refused(tmp_path, 'model_index.json is not JSON')


def test_paths_of_home_and_subfolders(folder, monkeypatch):
    monkeypatch.setenv('HOME', str(folder.parent))
    home = Path('~') / folder.name
    for source in (home, str(home), folder):
        assert load(source).fingerprint()
    assert load(folder.parent, subfolder=folder.name).fingerprint()
    refused(folder, "no subfolder 'odd'", subfolder='odd')
    with pytest.raises(TypeError, match='by a name, a path or a config dict, not by 3'):
        load(3)


@pytest.mark.parametrize(
    'dtype, expected',
    [
        (torch.bfloat16, torch.bfloat16),
        ('bf16', torch.bfloat16),
        ('fp16', torch.float16),
        ('torch.float16', torch.float16),
    ],
)
def test_names_of_precisions(dtype, expected):
    assert load(TINY_UNET, dtype=dtype).unet.dtype == expected


def test_wrong_arguments_are_one_sentence():
    with pytest.raises(ValueError, match="dtype='int8' is no precision"):
        load(TINY_UNET, dtype='int8')
    with pytest.raises(TypeError, match='promt'):
        load(TINY_UNET, promt='a cat')
    with pytest.raises(ValueError, match='make no UNet2DModel: .*sample_sise'):
        load({**TINY_UNET, 'sample_sise': 32})
    with pytest.raises(ValueError, match='prompt belongs to a latent prior'):
        load(TINY_UNET, prompt='a cat')
    with pytest.raises(ValueError, match='subfolder and variant'):
        load(TINY_UNET, variant='fp16')


def test_a_cached_snapshot_is_used_when_the_hub_refuses(tmp_path, monkeypatch, folder):
    """Clients may refuse a snapshot with fewer files than the repository, offline."""

    def refuse(*_args, **_kwargs):
        raise RuntimeError('incomplete')

    monkeypatch.setattr('huggingface_hub.snapshot_download', refuse)
    monkeypatch.setattr(
        'huggingface_hub.try_to_load_from_cache',
        lambda source, name, cache_dir=None: (
            str(folder / name) if name == 'config.json' else None
        ),
    )
    assert load('owner/name').fingerprint() == load(folder).fingerprint()


# --------------------------------------------------------------------------------------
# Sizes


def test_a_prior_of_photographs_that_are_not_square():
    model = build({**TINY_UNET, 'sample_size': (16, 32)})
    assert (model.image_shape, model.image_size) == ((16, 32), 32)
    from mmdiff.diffusion import sample_grid

    assert sample_grid(model, 4, steps=1).shape == (32, 64, 3)


def test_a_prior_that_does_not_say_its_size(tmp_path):
    from mmdiff.diffusion import generate_images

    model = build({**TINY_UNET, 'sample_size': None})
    with pytest.raises(ValueError, match='give the size, or set sample_size'):
        generate_images(model, 1, tmp_path / 'a', steps=1)
    assert generate_images(model, 1, tmp_path / 'b', size=(16, 32), steps=1) == 1


def test_the_page_of_sources_is_what_the_loader_says():
    """Of the pipelines; schedulers differ from version to version of diffusers."""
    root = Path(__file__).parents[2]
    spec = importlib.util.spec_from_file_location(
        'source_compatibility', root / 'tools/source_compatibility.py'
    )
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    start = '| pipeline |'
    page = (root / 'docs/compatibility-sources.md').read_text()
    assert page.split(start)[1] == tool.render().split(start)[1]
