"""Relatives of guided-diffusion: other flags, classes, wrappers, names of arguments."""

import json

import pytest
import torch

from mmdiff.diffusion import DiffusionModel
from mmdiff.diffusion.converters import adm

FLAGS = dict(
    image_size=16,
    num_channels=32,
    channel_mult='1,2',
    num_res_blocks=1,
    num_heads=2,
    attention_resolutions='8',
    class_cond=True,
)


def checkpoint(folder, classes=1000, flags=FLAGS, wrap=lambda state: state):
    unet = adm.build_empty({**flags, 'num_classes': classes})
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(shape, generator=generator) * 0.05
        for name, shape in adm.adm_shapes(unet).items()
    }
    torch.save(wrap(state), folder / 'adm.pt')
    return str(folder / 'adm.pt')


def convert(folder, source, flags=FLAGS, name='out'):
    (folder / f'{name}.json').write_text(json.dumps(flags))
    adm.convert_adm(source, str(folder / name), config=str(folder / f'{name}.json'))
    return DiffusionModel.from_pretrained(folder / name)


def prefixed(prefix, state):
    return {f'{prefix}{name}': value for name, value in state.items()}


@pytest.mark.parametrize('classes', [10, 1000])
def test_the_number_of_classes_is_that_of_the_weights(tmp_path, classes):
    model = convert(tmp_path, checkpoint(tmp_path, classes))
    assert model.num_classes == classes


WRAPS = {
    'module': lambda state: prefixed('module.', state),
    'compiled': lambda state: prefixed('_orig_mod.', state),
    'both': lambda state: prefixed('_orig_mod.module.', state),
    'state_dict': lambda state: {'state_dict': state, 'epoch': 3},
    'ema': lambda state: {'ema': state, 'model': prefixed('x.', state), 'step': 1},
    'latent': lambda state: {
        'state_dict': {
            **prefixed('model.diffusion_model.', state),
            'first_stage_model.weight': torch.zeros(1),
        }
    },
}


@pytest.mark.parametrize('wrap', WRAPS)
def test_wrappers_and_prefixes_are_taken_off(tmp_path, wrap):
    plain = convert(tmp_path, checkpoint(tmp_path))
    wrapped = convert(tmp_path, checkpoint(tmp_path, wrap=WRAPS[wrap]), name='again')
    assert plain.fingerprint() == wrapped.fingerprint()


def test_arguments_of_the_constructor_are_those_of_the_flags(tmp_path):
    source = checkpoint(tmp_path, 10)
    args = dict(
        image_size=16,
        in_channels=3,
        model_channels=32,
        out_channels=3,
        num_res_blocks=1,
        attention_resolutions=[2],
        channel_mult=[1, 2],
        num_classes=10,
        num_heads=2,
        use_scale_shift_norm=True,
    )
    by_flags = convert(tmp_path, source)
    by_args = convert(tmp_path, source, args, 'constructor')
    assert by_flags.fingerprint() == by_args.fingerprint()
    assert dict(by_flags.unet.config) == dict(by_args.unet.config)
    for odd, words in (
        ({'in_channels': 4}, 'in_channels=4 is no supported'),
        ({'odd': 1}, 'odd=1 is no supported argument'),
        ({'attention_resolutions': None}, 'a list of strides'),
    ):
        with pytest.raises(ValueError, match=words):
            convert(tmp_path, source, {**args, **odd}, 'odd')


def test_flags_of_improved_diffusion_have_to_say_how_time_is_scaled(tmp_path):
    """Its default is the other one: time would be four times too large."""
    source = checkpoint(tmp_path)
    flags = {**FLAGS, 'diffusion_steps': 4000, 'noise_schedule': 'cosine'}
    with pytest.raises(ValueError, match='diffusion_steps=4000 needs rescale_timest'):
        convert(tmp_path, source, flags)
    with pytest.raises(ValueError, match='not supported: .* rescale_timesteps False'):
        convert(tmp_path, source, {**flags, 'rescale_timesteps': True}, 'rescaled')
    plain = convert(tmp_path, source, {**flags, 'rescale_timesteps': False}, 'plain')
    assert plain.num_train_timesteps == 4000
