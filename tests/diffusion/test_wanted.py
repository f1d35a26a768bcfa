"""What is wrong with what is asked of a prior is said before its weights are read."""

import pytest
import safetensors.torch
import torch
from test_latent import CONFIG as SD
from test_latent import PROMPT, load, save_pipeline
from test_sdxl import CONFIG as SDXL

from mmdiff.diffusion import (
    DDPMDiffusionModel,
    LatentDiffusionModel,
    build,
)
from mmdiff.diffusion.wanted import Wanted

SIX = (64, 64, 0, 0, 64, 64)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """A saved prior of each kind, by its name; latent ones have one prompt."""
    root = tmp_path_factory.mktemp('priors')
    for name, source in (('sd', SD), ('sdxl', SDXL)):
        load(source, prompt=PROMPT).save_pretrained(root / name)
    edm = dict(type='EDMPrecond', img_resolution=16, img_channels=3, model_channels=16)
    edm.update(model_type='SongUNet', channel_mult=[1], num_blocks=1)
    load(edm).save_pretrained(root / 'edm')
    names = {name: root / name for name in ('sd', 'sdxl', 'edm')}
    return {**names, 'pixel': 'mmdiff::toy_voc'}


@pytest.fixture
def weights_closed(monkeypatch):
    """Reading the weights of a network is an error."""

    def read(*args, **kwargs):
        raise AssertionError('weights were read')

    for name in ('load_network', 'load_unet', 'load_weights'):
        monkeypatch.setattr(build, name, read)


@pytest.mark.parametrize(
    'name, asked, error, sentence',
    [
        ('sd', dict(prompt=['a cat']), TypeError, 'prompt must be one string'),
        ('sdxl', dict(prompt=7), TypeError, 'prompt must be one string, not 7'),
        ('sd', dict(prompt=PROMPT, latent='mode'), ValueError, "latent='mode' is unk"),
        ('sdxl', dict(prompt=PROMPT, time_ids='123456'), TypeError, 'six whole'),
        ('sdxl', dict(prompt=PROMPT, time_ids=(1.5,) * 6), TypeError, 'six whole'),
        ('sdxl', dict(prompt=PROMPT, time_ids=torch.ones(6)), TypeError, 'six whole'),
        ('sd', dict(prompt=PROMPT, time_ids=SIX), ValueError, 'belongs to SDXL'),
        ('sd', dict(prompt=PROMPT, patch_size=2), ValueError, 'a pixel U-Net'),
        ('edm', dict(patch_size=2), ValueError, 'a pixel U-Net'),
        ('edm', dict(prompt='a'), ValueError, 'prompt belongs to a latent prior'),
        ('pixel', dict(latent='mean'), ValueError, 'latent belongs to a latent prior'),
        ('pixel', dict(time_ids=SIX), ValueError, 'time_ids belongs to a latent'),
        # Another prompt than the folder has, and no text encoder.
        ('sd', dict(prompt='a dog'), FileNotFoundError, 'has no text_encoder'),
        ('sdxl', dict(), FileNotFoundError, 'has no text_encoder'),
    ],
)
def test_a_wrong_argument_is_found_before_weights_are_read(
    folders, weights_closed, name, asked, error, sentence
):
    with pytest.raises(error, match=sentence):
        load(folders[name], **asked)


@pytest.mark.parametrize(
    'name, kind', [('pixel', LatentDiffusionModel), ('sd', DDPMDiffusionModel)]
)
def test_another_kind_is_refused_before_weights_are_read(
    folders, weights_closed, name, kind
):
    with pytest.raises(ValueError, match='load it as a DiffusionModel'):
        kind.from_pretrained(folders[name])


@pytest.mark.parametrize(
    'tokens, pooled, sentence',
    [
        ((1, 77, 19), (1, 10), 'gives 19 channels, the U-Net takes 20'),
        ((1, 77, 20), (1, 9), 'gives 9 pooled channels, the U-Net takes 10'),
        ((1, 77, 20), None, 'gives no pooled channels, the U-Net takes 10'),
    ],
)
def test_an_embedding_of_another_prior_is_found_before_weights_are_read(
    folders, weights_closed, tmp_path, tokens, pooled, sentence
):
    folder = tmp_path / 'sdxl'
    folder.mkdir()
    for part in folders['sdxl'].iterdir():
        (folder / part.name).symlink_to(part)
    (folder / 'prompt_embeds.safetensors').unlink()
    tensors = dict(prompt_embeds=torch.zeros(tokens))
    if pooled is not None:
        tensors['pooled_prompt_embeds'] = torch.zeros(pooled)
    file = folder / 'prompt_embeds.safetensors'
    safetensors.torch.save_file(tensors, file, {'prompt': PROMPT})
    with pytest.raises(ValueError, match=sentence):
        load(folder, prompt=PROMPT)


def test_missing_weights_of_the_vae_are_found_before_those_of_the_unet_are_read(
    weights_closed, tmp_path
):
    folder = tmp_path / 'sd'
    save_pipeline(folder)
    (folder / 'vae' / 'diffusion_pytorch_model.safetensors').unlink()
    with pytest.raises(FileNotFoundError, match='vae has a config.json but no weights'):
        load(folder, prompt=PROMPT)


def test_what_is_left_out_is_not_given():
    assert Wanted(prompt='', time_ids=None).latent_args == {'prompt': ''}
