"""Converted ADM networks against what guided-diffusion itself computes."""

import importlib.util
import json
import os
import runpy
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from mmdiff import DiffusionModel
from mmdiff.diffusion import DDPMDiffusionModel
from mmdiff.diffusion.converters import adm

TESTS = Path(__file__).parents[1]
TOOL = TESTS.parent / 'tools' / 'convert_checkpoint.py'
_SPEC = importlib.util.spec_from_file_location(
    'make_adm_reference', TESTS / 'data' / 'make_adm_reference.py'
)
reference = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(reference)
VARIANTS = reference.VARIANTS
EXPECTED = load_file(reference.REFERENCE)
with safe_open(reference.REFERENCE, 'pt') as _file:
    SHAPES = {k: json.loads(v) for k, v in _file.metadata().items()}


def checkpoint(variant, folder):
    """The official weights of a variant, and its flags, as files."""
    weights = reference.make_weights(SHAPES['variants'][variant])
    torch.save(weights, folder / 'adm.pt')
    (folder / 'flags.json').write_text(json.dumps(VARIANTS[variant]))
    return str(folder / 'adm.pt'), str(folder / 'flags.json')


@pytest.fixture(scope='module')
def converted(tmp_path_factory):
    @cache
    def convert(variant):
        folder = tmp_path_factory.mktemp(variant)
        source, flags = checkpoint(variant, folder)
        adm.convert_adm(source, str(folder / 'out'), config=flags)
        return folder / 'out'

    return convert


def load(folder, variant):
    model = DiffusionModel.from_pretrained(str(folder)).eval().requires_grad_(False)
    x = reference.make_input(VARIANTS[variant]['image_size'])
    cond = torch.full((2,), reference.LABEL) if model.num_classes else None
    return model, x, cond


def taps_of_blocks(model):
    """Official block -> our tap. The first input block (a convolution) has none."""
    levels = len(model.unet.config.block_out_channels)
    layers = model.unet.config.layers_per_block
    taps, count = {}, 1
    for i in range(levels):
        for j in range(layers):
            taps[f'input_blocks.{count + j}'] = f'down.{i}.{j}'
        if i < levels - 1:
            taps[f'input_blocks.{count + layers}'] = f'down.{i}'
        count += layers + 1
    taps['middle_block'] = 'mid'
    count = 0
    for i in range(levels):
        for j in range(layers):
            taps[f'output_blocks.{count + j}'] = f'up.{i}.{j}'
        taps[f'output_blocks.{count + layers}'] = f'up.{i}'
        count += layers + 1
    return taps


@pytest.mark.parametrize('variant', VARIANTS)
def test_outputs_and_features_are_the_official_ones(converted, variant):
    model, x, cond = load(converted(variant), variant)
    taps = taps_of_blocks(model)
    out = model.features(x, reference.TIMESTEP, list(taps.values()), cond)
    found = {block: out[tap] for block, tap in taps.items()}
    found['out'] = model.unet(x, reference.TIMESTEP, cond).sample
    found['alphas_cumprod'] = model.alphas_cumprod
    names = {k.split('/')[1] for k in EXPECTED if k.startswith(f'{variant}/')}
    assert names - set(found) == {'input_blocks.0'} and not set(found) - names
    for name, value in found.items():
        expected = EXPECTED[f'{variant}/{name}']
        error = (reference.thin(value) - expected).abs().max() / expected.abs().max()
        assert error < 1e-4, (name, error)


@pytest.mark.parametrize('name', adm.PRESETS)
def test_presets_have_the_names_and_shapes_of_the_official_networks(name):
    shapes = adm.adm_shapes(adm.build_empty(adm.PRESETS[name]))
    assert reference.digest(shapes) == SHAPES['presets'][name]


def test_blocks_of_the_256_px_model():
    """Counted 1 to 37, block 24 is 1024 x 16 x 16 (papers use it)."""
    unet = adm.build_empty(adm.PRESETS['imagenet256-uncond'])
    with torch.device('meta'):
        model = DDPMDiffusionModel(unet, adm.build_scheduler())
    taps = taps_of_blocks(model)
    assert len(taps) == 36  # and the first convolution
    info = {info.name: info for info in model.feature_info}
    blocks = [(block, info[tap]) for block, tap in taps.items()]
    assert blocks[24 - 2] == ('output_blocks.4', ('up.1.1', 1024, 16))
    assert blocks[19 - 2] == ('middle_block', ('mid', 1024, 32))
    assert blocks[-1] == ('output_blocks.17', ('up.5', 256, 1))
    # Every other tap lies inside an official block, before its upsampler.
    inside = set(info) - set(taps.values())
    assert inside == {'down.5', *(f'up.{i}.2' for i in range(6))}


def test_gradient_to_the_input(converted):
    variant = 'resnet-new-order'
    model, x, cond = load(converted(variant), variant)
    model.double()
    x = x.double().requires_grad_()
    direction = reference.draw(x.shape, 5).double()

    def value(x):
        return model.predict(x, 10, cond).square().mean()

    (grad,) = torch.autograd.grad(value(x), x)
    with torch.no_grad():
        h = 1e-5
        numeric = (value(x + h * direction) - value(x - h * direction)) / (2 * h)
    assert torch.allclose((grad * direction).sum(), numeric, rtol=1e-6)


@pytest.mark.parametrize('variant', ['legacy-head-channels', 'narrow-first-level'])
def test_samples_with_a_learned_variance(converted, variant):
    model, x, _ = load(converted(variant), variant)
    assert model.unet.config.out_channels == 6
    assert model.predict(x, 5).shape == x.shape
    images = model.sample((1, 16, 16), 2, torch.Generator().manual_seed(0))
    assert images.shape == (1, 3, 16, 16) and images.abs().max() <= 1
    assert images.std() > 0.1


def test_wrong_order_of_attention_is_another_network(converted, tmp_path):
    """Names and shapes do not show it: the golden values do."""
    variant = 'legacy-head-channels'
    source, _ = checkpoint(variant, tmp_path)
    flags = {**VARIANTS[variant], 'use_new_attention_order': True}
    (tmp_path / 'wrong.json').write_text(json.dumps(flags))
    adm.convert_adm(source, str(tmp_path / 'out'), config=str(tmp_path / 'wrong.json'))
    wrong, x, _ = load(tmp_path / 'out', variant)
    right, _, _ = load(converted(variant), variant)
    difference = (wrong.predict(x, 5) - right.predict(x, 5)).abs().max()
    assert difference > 1e-3


def test_preset_is_found_by_names_and_shapes(monkeypatch, tmp_path):
    monkeypatch.setattr(adm, 'PRESETS', VARIANTS)
    source, _ = checkpoint('resnet-legacy-heads', tmp_path)
    out = tmp_path / 'out'
    assert adm.convert_adm(source, str(out)) == 'resnet-legacy-heads'
    twins = {'a': VARIANTS['resnet-legacy-heads'], 'b': VARIANTS['resnet-legacy-heads']}
    monkeypatch.setattr(adm, 'PRESETS', twins)
    with pytest.raises(ValueError, match='fits a and b by names and shapes; give'):
        adm.convert_adm(source, str(tmp_path / 'out2'))
    with pytest.raises(FileExistsError, match='exists already'):
        adm.convert_adm(source, str(out))


class Evil:
    def __reduce__(self):
        return os.system, ('touch hacked',)


def spoil(kind, tmp_path):
    """A file that cannot be converted, the arguments, and what the error says."""
    source, flags = checkpoint('conv-no-scale-shift', tmp_path)
    path, args = Path(source), {'config': flags}
    if kind == 'missing':
        path.unlink()
    elif kind == 'truncated':
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == 'malicious':
        torch.save({'weight': Evil()}, path)
    elif kind == 'other architecture':
        torch.save(torch.nn.Linear(2, 2).state_dict(), path)
        args = {}
    elif kind == 'other shapes':
        state = torch.load(path)
        state['input_blocks.1.0.in_layers.2.weight'] = torch.zeros(32, 32, 1, 1)
        torch.save(state, path)
    elif kind == 'wrong preset':
        args = {'preset': 'imagenet64'}
    elif kind == 'unknown preset':
        args = {'preset': 'imagenet1024'}
    elif kind == 'config is a list':
        Path(flags).write_text('[1, 2]')
    elif kind == 'missing config':
        args = {'config': str(tmp_path / 'none.json')}
    else:
        given = json.loads(Path(flags).read_text())
        given.update(
            {
                'unknown flag': {'image_sizes': 16},
                'type of flag': {'class_cond': 'False'},
                'heads up': {'num_heads_upsample': 4},
                'pooling': {'conv_resample': False},
                'schedule': {'noise_schedule': 'quadratic'},
                'rescaled': {'rescale_timesteps': True, 'diffusion_steps': 4000},
                'no channel_mult': {'channel_mult': ''},
                'groups': {'num_channels': 40},
            }[kind]
        )
        Path(flags).write_text(json.dumps(given))
    return path, args


SPOILED = {
    'missing': (FileNotFoundError, 'There is no file .*adm.pt'),
    'truncated': (ValueError, 'cut short'),
    'malicious': (ValueError, 'nothing was executed'),
    'other architecture': (ValueError, 'fits no preset .* give preset .imagenet64'),
    'other shapes': (ValueError, r'1 weights .*in_layers.2.weight.*\(32, 32, 3, 3\)'),
    'wrong preset': (ValueError, r"weights are not .* '.*weight' \(given .*preset"),
    'unknown preset': (ValueError, "preset='imagenet1024': give one of imagenet64"),
    'missing config': (ValueError, 'none.json is no JSON file .*No such file'),
    'config is a list': (ValueError, 'flags.json is no JSON file of flags'),
    'unknown flag': (ValueError, 'image_sizes=16 is no flag .* it has image_size=64'),
    'type of flag': (ValueError, "class_cond='False' is no .* class_cond=False"),
    'heads up': (ValueError, 'not supported: .* num_heads_upsample as num_heads'),
    'pooling': (ValueError, 'not supported: .* conv_resample or'),
    'schedule': (ValueError, 'not supported: noise_schedule must'),
    'rescaled': (ValueError, 'not supported: .* rescale_timesteps False'),
    'no channel_mult': (ValueError, 'may be left out for .*512.*, not 16'),
    'groups': (ValueError, r'\[40, 80, 120\] .* 32 groups'),
}


@pytest.mark.parametrize('kind', SPOILED)
def test_what_cannot_be_converted_leaves_nothing(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, args = spoil(kind, tmp_path)
    before = set(tmp_path.iterdir())
    error, match = SPOILED[kind]
    with pytest.raises(error, match=match) as caught:
        adm.convert_adm(str(path), str(tmp_path / 'out'), **args)
    assert '\n' not in str(caught.value)
    assert set(tmp_path.iterdir()) == before  # neither out nor what Evil touches


def test_half_a_folder_never_remains(tmp_path, monkeypatch):
    source, flags = checkpoint('legacy-head-channels', tmp_path)

    def fail(self, folder):
        (Path(folder) / 'config.json').write_text('{}')
        raise OSError('disk full')

    monkeypatch.setattr(DDPMDiffusionModel, 'save_pretrained', fail)
    before = set(tmp_path.iterdir())
    with pytest.raises(OSError, match='disk full'):
        adm.convert_adm(source, str(tmp_path / 'out'), config=flags)
    assert set(tmp_path.iterdir()) == before


@pytest.mark.slow
def test_the_tool(tmp_path):
    variant = 'resnet-legacy-heads'
    source, flags = checkpoint(variant, tmp_path)
    done = subprocess.run(
        [sys.executable, TOOL, 'adm', source, 'out', '--config', flags],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(TESTS.parent), OMP_NUM_THREADS='1'),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    count = sum(torch.Size(s).numel() for s in SHAPES['variants'][variant].values())
    for text in (f'{count:,} parameters', 'timestep', 'up.1.1', "source='out'"):
        assert text in done.stdout, done.stdout
    assert DiffusionModel.from_pretrained(str(tmp_path / 'out')).total_stride == 4


@pytest.mark.parametrize(
    'args, said',
    [
        (['adm', 'none.pt', 'out'], "There is no file 'none.pt'"),
        (['adm', 'none.pt', '.'], '. exists already'),
        (['edm', 'none.pkl', 'out'], "There is no file 'none.pkl'"),
        (['edm', '--state-dict', 'none.pt', '--config', 'c', 'out'], 'There is no'),
    ],
)
def test_errors_of_the_tool_are_sentences(args, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', [str(TOOL), *args])
    with pytest.raises(SystemExit) as caught:  # a text: printed, status 1
        runpy.run_path(str(TOOL), run_name='__main__')
    assert caught.value.code.startswith(f'convert_checkpoint.py: {said}')
    assert not list(tmp_path.iterdir())
