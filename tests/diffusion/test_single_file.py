"""Stable Diffusion in one file, by the names of its authors' code."""

import re

import pytest
import safetensors.torch
import torch
from test_latent import CONFIG, SD2, UNET, load
from test_sdxl import CONFIG as SDXL

# Names of diffusers and of the authors' code, inside a block.
RESNET = {
    'norm1': 'in_layers.0',
    'conv1': 'in_layers.2',
    'time_emb_proj': 'emb_layers.1',
    'norm2': 'out_layers.0',
    'conv2': 'out_layers.3',
    'conv_shortcut': 'skip_connection',
}
OUTER = {
    'time_embedding.linear_1': 'time_embed.0',
    'time_embedding.linear_2': 'time_embed.2',
    'add_embedding.linear_1': 'label_emb.0.0',
    'add_embedding.linear_2': 'label_emb.0.2',
    'conv_in': 'input_blocks.0.0',
    'conv_norm_out': 'out.0',
    'conv_out': 'out.2',
    'mid_block.resnets.0': 'middle_block.0',
    'mid_block.attentions.0': 'middle_block.1',
    'mid_block.resnets.1': 'middle_block.2',
}


def layer_names(unet):
    """Modules of a U-Net, by diffusers' names, and their names in a single file."""
    names, number = dict(OUTER), 1
    for i, block in enumerate(unet.down_blocks):
        for j in range(len(block.resnets)):
            names[f'down_blocks.{i}.resnets.{j}'] = f'input_blocks.{number}.0'
            names[f'down_blocks.{i}.attentions.{j}'] = f'input_blocks.{number}.1'
            number += 1
        names[f'down_blocks.{i}.downsamplers.0.conv'] = f'input_blocks.{number}.0.op'
        number += bool(block.downsamplers)
    number = 0
    for i, block in enumerate(unet.up_blocks):
        for j in range(len(block.resnets)):
            names[f'up_blocks.{i}.resnets.{j}'] = f'output_blocks.{number}.0'
            names[f'up_blocks.{i}.attentions.{j}'] = f'output_blocks.{number}.1'
            number += 1
        place = 2 if hasattr(block, 'attentions') else 1
        old = f'output_blocks.{number - 1}.{place}.conv'
        names[f'up_blocks.{i}.upsamplers.0.conv'] = old
    return names


def unet_state(unet):
    names, state = layer_names(unet), {}
    for name, value in unet.state_dict().items():
        (layer,) = (n for n in names if f'{name}.'.startswith(f'{n}.'))
        rest = name[len(layer) + 1 :]
        if '.resnets.' in layer:
            part, leaf = rest.rsplit('.', 1)
            rest = f'{RESNET[part]}.{leaf}'
        state[f'model.diffusion_model.{names[layer]}.{rest}'] = value
    return state


def vae_state(vae):
    """An encoder's and a decoder's names; a decoder's levels are counted upwards."""
    levels, state = len(vae.config.block_out_channels), {}
    for name, value in vae.state_dict().items():
        old = re.sub(r'down_blocks\.(\d)\.resnets\.(\d)', r'down.\1.block.\2', name)
        old = re.sub(
            r'up_blocks\.(\d)\.resnets\.(\d)',
            lambda m: f'up.{levels - 1 - int(m[1])}.block.{m[2]}',
            old,
        )
        old = re.sub(r'down_blocks\.(\d)\.downsamplers\.0', r'down.\1.downsample', old)
        old = re.sub(
            r'up_blocks\.(\d)\.upsamplers\.0',
            lambda m: f'up.{levels - 1 - int(m[1])}.upsample',
            old,
        )
        old = re.sub(
            r'mid_block\.resnets\.(\d)', lambda m: f'mid.block_{int(m[1]) + 1}', old
        )
        for new, word in (
            ('mid_block.attentions.0.group_norm', 'mid.attn_1.norm'),
            ('mid_block.attentions.0.to_out.0', 'mid.attn_1.proj_out'),
            ('mid_block.attentions.0.to_', 'mid.attn_1.'),
            ('conv_shortcut', 'nin_shortcut'),
            ('conv_norm_out', 'norm_out'),
        ):
            old = old.replace(new, word)
        if 'attn_1' in old and value.ndim == 2:
            value = value[:, :, None, None]  # they are convolutions there
        state[f'first_stage_model.{old}'] = value
    return state


def save(tmp_path, source):
    """A pipeline's settings and prompt in a folder, its weights in one file."""
    model, folder = load(source), tmp_path / 'settings'
    model.save_pretrained(folder)
    for file in folder.glob('*/diffusion_pytorch_model.safetensors'):
        file.unlink()
    state = {**unet_state(model.unet), **vae_state(model.vae)}
    state = {name: value.contiguous() for name, value in state.items()}
    # What the file has besides is left alone.
    state['cond_stage_model.transformer.text_model.final_layer_norm.bias'] = (
        torch.zeros(8)
    )
    file = tmp_path / 'model.safetensors'
    safetensors.torch.save_file(state, file)
    return model, file, folder


SD2_CONFIG = {**CONFIG, 'unet': {**UNET, **SD2}}


@pytest.mark.parametrize('source', [CONFIG, SD2_CONFIG, SDXL], ids=['1', '2', 'xl'])
def test_one_file_gives_the_same_prior_as_its_pipeline(tmp_path, source):
    model, file, folder = save(tmp_path, source)
    again = load(file, config=folder)
    assert again.fingerprint() == model.fingerprint()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        one, other = (m.predict(m.encode(x), 3) for m in (model, again))
    assert torch.allclose(one, other, atol=1e-5)


def test_a_file_without_settings_says_what_it_needs(tmp_path):
    _, file, folder = save(tmp_path, CONFIG)
    for call, error, words in (
        (lambda: load(file), ValueError, 'weights alone; give config=FOLDER'),
        (lambda: load(file, config=folder, variant='fp16'), ValueError, 'one file'),
        (lambda: load(folder, config=folder), ValueError, 'leave config out'),
        (lambda: load(tmp_path / 'a.safetensors'), FileNotFoundError, 'no file'),
        (lambda: load(file, config='mmdiff::toy_voc'), ValueError, 'a pixel prior'),
    ):
        with pytest.raises(error, match=words) as caught:
            call()
        assert '\n' not in str(caught.value)
    file.rename(tmp_path / 'model.ckpt')
    with pytest.raises(ValueError, match='could execute code'):
        load(tmp_path / 'model.ckpt', config=folder)


@pytest.mark.parametrize('part', ['diffusion_model.middle_block.1', 'encoder.conv_in'])
def test_a_file_with_missing_weights_is_refused(tmp_path, part):
    """What a file lacks would stay random, or empty."""
    _, file, folder = save(tmp_path, CONFIG)
    state = safetensors.torch.load_file(file)
    kept = {name: value for name, value in state.items() if part not in name}
    assert len(kept) < len(state)
    safetensors.torch.save_file(kept, file)
    with pytest.raises(ValueError, match='do(es)? not fit') as caught:
        load(file, config=folder)
    assert '\n' not in str(caught.value)


def test_settings_of_another_version_are_refused(tmp_path):
    _, file, _ = save(tmp_path, CONFIG)
    (tmp_path / 'xl').mkdir()
    _, _, other = save(tmp_path / 'xl', SDXL)
    with pytest.raises(ValueError, match='does not fit|do not fit') as caught:
        load(file, config=other)
    assert '\n' not in str(caught.value)
