"""The U-Net's weights from one other file, as CleanDIFT gives them."""

import pytest
import safetensors.torch
import torch
from diffusers import UNet2DConditionModel
from test_latent import CONFIG, UNET, load
from test_sources import PIXEL

from mmdiff import DiffusionModel
from mmdiff.diffusion.prompts import PromptEmbedder, draw_embedding
from mmdiff.models import DiffusionUNet


@pytest.fixture
def folder(tmp_path):
    """A pipeline with its prompt's embedding, so that no text encoder is needed."""
    load(CONFIG).save_pretrained(tmp_path / 'sd')
    return tmp_path / 'sd'


@pytest.fixture
def other(tmp_path):
    """Another U-Net of the same layout, and the file of its weights."""
    torch.manual_seed(1)
    unet = UNet2DConditionModel(**UNET)
    file = tmp_path / 'cleandift.safetensors'
    safetensors.torch.save_file(unet.state_dict(), file)
    return unet, file


def test_the_unet_is_the_files_and_all_else_is_the_pipelines(folder, other):
    unet, file = other
    plain, model = load(folder), load(folder, unet_weights=file)
    for name, value in unet.state_dict().items():
        assert torch.equal(model.unet.state_dict()[name], value), name
    for name, value in plain.vae.state_dict().items():
        assert torch.equal(model.vae.state_dict()[name], value), name
    assert torch.equal(model.prompt_embeds, plain.prompt_embeds)
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([3])
    with torch.no_grad():
        expected = unet.eval()(x, t, plain.prompt_embeds).sample
        assert torch.equal(model.predict(x, t), expected)


def test_the_fingerprint_is_that_of_the_weights_in_use(folder, other):
    plain, model = load(folder), load(folder, unet_weights=str(other[1]))
    assert plain.fingerprint() != model.fingerprint()
    args = dict(timestep=1, out_indices=('up.2',))
    first = DiffusionUNet(dict(source=folder, unet_weights=other[1]), **args)
    DiffusionUNet(dict(source=folder, unet_weights=other[1]), **args).load_state_dict(
        first.state_dict()
    )
    with pytest.raises(ValueError, match='another frozen prior'):
        DiffusionUNet(dict(source=folder), **args).load_state_dict(first.state_dict())


def test_the_pipelines_own_unet_is_not_needed(folder, other):
    (folder / 'unet/diffusion_pytorch_model.safetensors').unlink()
    with pytest.raises(FileNotFoundError, match='no weights'):
        load(folder)
    assert load(folder, unet_weights=other[1]).prompt == ''


def test_half_precision_is_read_into_full(folder, other):
    unet, file = other
    state = {name: value.half() for name, value in unet.state_dict().items()}
    safetensors.torch.save_file(state, file)
    weight = load(folder, unet_weights=file).unet.conv_in.weight
    assert torch.equal(weight, unet.conv_in.weight.half().float())


def test_pixel_priors_and_configs_take_a_file_too(tmp_path):
    source = dict(type='UNet2DModel', **PIXEL)
    torch.manual_seed(3)
    trained = DiffusionModel.from_pretrained(source)
    file = tmp_path / 'unet.safetensors'
    safetensors.torch.save_file(trained.unet.state_dict(), file)
    again = DiffusionModel.from_pretrained(source, unet_weights=file)
    assert again.fingerprint() == trained.fingerprint()


def missing(state):
    del state['conv_in.weight']


def extra(state):
    state['adapter.weight'] = torch.zeros(1)


def wide(state):
    state['conv_in.bias'] = torch.zeros(5)


@pytest.mark.parametrize(
    'spoil, words',
    [
        (missing, "they lack 1 of .* names, among them 'conv_in.weight'"),
        (extra, "they have besides 1 of .* names, among them 'adapter.weight'"),
        (wide, r"'conv_in.bias' has the shape \(5,\) where \(4,\) is needed"),
    ],
)
def test_weights_that_do_not_fit_are_one_sentence(folder, other, spoil, words):
    state = safetensors.torch.load_file(other[1])
    spoil(state)
    safetensors.torch.save_file(state, other[1])
    with pytest.raises(ValueError, match=words) as caught:
        load(folder, unet_weights=other[1])
    assert '\n' not in str(caught.value)


def test_bad_files_are_named_before_other_weights_are_read(
    folder, other, tmp_path, monkeypatch
):
    def read(*_args, **_kwargs):
        raise AssertionError('weights were read')

    monkeypatch.setattr('mmdiff.diffusion.weights.find_weights', read)
    (tmp_path / 'a.pt').write_text('')
    (tmp_path / 'cut.safetensors').write_bytes(other[1].read_bytes()[:-9])
    for name, error, words in (
        ('none.safetensors', FileNotFoundError, 'There is no file .*none.safetensors'),
        ('a.pt', ValueError, 'no safetensors file'),
        ('cut.safetensors', ValueError, 'cut short or damaged'),
    ):
        with pytest.raises(error, match=words) as caught:
            load(folder, unet_weights=tmp_path / name)
        assert '\n' not in str(caught.value)
    with pytest.raises(ValueError, match='random_weights=True contradict'):
        load(folder, unet_weights=other[1], random_weights=True)


def test_an_embedding_in_the_folder_stands_for_the_text_encoder(folder):
    PromptEmbedder(folder).save('a dog', draw_embedding('anything', 8))
    embeds = load(folder, prompt='a dog').prompt_embeds
    assert torch.equal(embeds, draw_embedding('anything', 8).tokens)
