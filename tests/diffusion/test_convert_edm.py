import io
import json
import os
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from test_edm import CONFIGS, SIGMAS, TINY, build, inputs

from mmdiff import DiffusionModel
from mmdiff.diffusion.converters import convert_edm
from mmdiff.diffusion.converters.restricted_pickle import load_state_dict


class EasyDict(dict):
    pass


class Persistent(torch.nn.Module):
    """Reduces like the classes that torch_utils.persistence decorates."""

    class_name, module_src = 'UNetBlock', ''

    def __reduce__(self):
        state = {k: v for k, v in vars(self).items() if k not in FIELDS}
        meta = dict(type='class', version=6, module_src=self.module_src)
        meta.update(class_name=self.class_name, state=state)
        return _reconstruct_persistent_obj, (meta,), None


FIELDS = ('class_name', 'module_src')


def _reconstruct_persistent_obj(meta):
    raise AssertionError('the official function would execute module_src')


@pytest.fixture
def official(monkeypatch):
    """The modules that the names in an EDM pickle belong to."""
    for path, member in (
        ('torch_utils.persistence', _reconstruct_persistent_obj),
        ('dnnlib.util', EasyDict),
    ):
        package, _ = path.split('.')
        monkeypatch.setattr(member, '__module__', path)
        module = types.ModuleType(path)
        setattr(module, member.__name__, member)
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
        monkeypatch.setitem(sys.modules, path, module)


def mirror(module, source):
    """The module as NVIDIA's code would hold it: persistent objects all the way."""
    if isinstance(module, torch.nn.Identity):
        return None
    is_dict = isinstance(module, torch.nn.ModuleDict)
    fake = torch.nn.ModuleDict() if is_dict else Persistent()
    if not is_dict:
        fake.module_src, fake.skip_scale = source, np.sqrt(0.5)
        fake._init_args, fake._init_kwargs = (), {'init_weight': np.float32(1)}
    fake._parameters.update(module._parameters)
    fake._buffers.update(module._buffers)
    fake._non_persistent_buffers_set = set(module._non_persistent_buffers_set)
    for name, child in module.named_children():
        fake._modules[name] = mirror(child, source)
    return fake


def edm_pickle(unet, protocol=4, class_name='EDMPrecond', source='', **extras):
    net = mirror(unet, source)
    net.class_name = class_name
    config = dict(unet.config)
    net._init_args = (config.pop('img_resolution'), config.pop('img_channels'))
    net._init_kwargs = EasyDict({k: v for k, v in config.items() if v is not None})
    pipe = Persistent()
    pipe.table, pipe._init_kwargs = np.arange(6.0).reshape(2, 3), EasyDict(p=0.12)
    content = dict(
        ema=net, augment_pipe=pipe, dataset_kwargs=EasyDict(path='x.zip'), **extras
    )
    return pickle.dumps(content, protocol)


@pytest.mark.parametrize('protocol', [2, 4])
@pytest.mark.parametrize('kind', CONFIGS)
def test_pickle_comes_through_unchanged(official, kind, protocol, tmp_path):
    model = build(dict(type='EDMPrecond', **CONFIGS[kind]))
    marker = tmp_path / 'executed'
    source = f'open({str(marker)!r}, "w")'
    (tmp_path / 'net.pkl').write_bytes(edm_pickle(model.unet, protocol, source=source))
    convert_edm(tmp_path / 'net.pkl', tmp_path / 'out')
    assert not marker.exists()
    again = DiffusionModel.from_pretrained(str(tmp_path / 'out')).eval()
    assert list(again.state_dict()) == list(model.state_dict())
    x, _ = inputs(kind)
    assert torch.equal(again.predict(x, SIGMAS), model.predict(x, SIGMAS))
    assert not (tmp_path / 'out.partial').exists()
    with pytest.raises(FileExistsError, match='exists already'):
        convert_edm(tmp_path / 'net.pkl', tmp_path / 'out')


def test_state_dict_comes_through_unchanged(tmp_path):
    model = build()
    torch.save(model.unet.state_dict(), tmp_path / 'net.pt')
    config = {k: v for k, v in TINY.items() if k != 'type'}
    (tmp_path / 'net.json').write_text(json.dumps(config))
    convert_edm(tmp_path / 'net.pt', tmp_path / 'a' / 'out', tmp_path / 'net.json')
    again = DiffusionModel.from_pretrained(str(tmp_path / 'a' / 'out')).eval()
    x, _ = inputs('ddpmpp')
    assert torch.equal(again.predict(x, SIGMAS), model.predict(x, SIGMAS))


class Evil:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


def storage_of(payload):
    """A storage whose bytes are a pickle of their own."""
    data = io.BytesIO()
    torch.save(payload, data, _use_new_zipfile_serialization=False)
    return Evil(torch.storage._load_from_bytes, data.getvalue())


@pytest.mark.parametrize('where', ['system', 'eval', 'storage', 'getattr', 'bare'])
def test_nothing_in_a_malicious_pickle_runs(official, where, tmp_path):
    marker = tmp_path / 'executed'
    touch = Evil(os.system, f'touch {marker}')
    extras = {
        'system': touch,
        'eval': Evil(eval, f'open({str(marker)!r}, "w")'),
        'storage': storage_of(touch),
        'getattr': Evil(getattr, EasyDict(), '__class__'),
        'bare': touch,
    }[where]
    data = edm_pickle(build().unet, extra=extras)
    if where == 'bare':
        data = pickle.dumps(touch)
    (tmp_path / 'net.pkl').write_bytes(data)
    words = 'cannot be read' if where == 'storage' else 'asks for .* nothing of it'
    with pytest.raises(ValueError, match=words):
        convert_edm(tmp_path / 'net.pkl', tmp_path / 'out')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['net.pkl']


def test_what_is_no_edm_pickle(official, tmp_path):
    data = edm_pickle(build().unet)
    loop = Persistent()
    loop.class_name = 'EDMPrecond'
    loop._modules['again'] = torch.nn.ModuleDict()
    contents = {
        'cut short': data[: len(data) // 2],
        'is empty': b'',
        'cannot be read': b'hello world',
        'no network under "ema"': pickle.dumps({'G_ema': 1}),
        'no checkpoint of EDM': pickle.dumps([1, 2]),
        'holds a VPPrecond': edm_pickle(build().unet, class_name='VPPrecond'),
        'not of a known architecture: .*img_resolution': pickle.dumps({'ema': loop}),
    }
    for words, content in contents.items():
        (tmp_path / 'net.pkl').write_bytes(content)
        with pytest.raises(ValueError, match=words):
            convert_edm(tmp_path / 'net.pkl', tmp_path / 'out')
    with pytest.raises(FileNotFoundError, match='There is no file'):
        convert_edm(tmp_path / 'nothing.pkl', tmp_path / 'out')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['net.pkl']


def test_another_architecture(official, tmp_path):
    for change, words in (
        (dict(num_blocks=2), 'Missing key'),
        (dict(augment_dim=0), 'Unexpected key'),
        (dict(model_channels=16), 'size mismatch'),
        (dict(wings=2), 'wings'),
        (dict(table=np.float32), 'not of a known|asks for'),
    ):
        unet = build().unet
        unet.config = {**unet.config, **change}
        (tmp_path / 'net.pkl').write_bytes(edm_pickle(unet))
        with pytest.raises(ValueError, match=words):
            convert_edm(tmp_path / 'net.pkl', tmp_path / 'out')
        assert not list(tmp_path.glob('out*'))


def test_interrupted_writing_leaves_nothing(official, tmp_path, monkeypatch):
    (tmp_path / 'net.pkl').write_bytes(edm_pickle(build().unet))

    def fail(*args, **kwargs):
        raise OSError('disk full')

    monkeypatch.setattr('safetensors.torch.save', fail)
    with pytest.raises(OSError, match='disk full'):
        convert_edm(tmp_path / 'net.pkl', tmp_path / 'out')
    assert not list(tmp_path.glob('out*'))


def test_state_dict_errors(tmp_path):
    path = tmp_path / 'net.pt'
    state = {'a': torch.ones(300)}
    for zipped in (True, False):
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
        assert torch.equal(load_state_dict(path)['a'], state['a'])
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(ValueError, match='cut short'):
            load_state_dict(path)
        torch.save(
            {'a': Evil(os.system, f'touch {tmp_path}/executed')},
            path,
            _use_new_zipfile_serialization=zipped,
        )
        with pytest.raises(ValueError, match='nothing was executed'):
            load_state_dict(path)
    assert [p.name for p in tmp_path.iterdir()] == ['net.pt']
    for content, words in (
        ({'optimizer': state}, "'optimizer' is not a tensor"),
        ([1], 'nameless list'),
        ({}, 'empty'),
    ):
        torch.save(content, path)
        with pytest.raises(ValueError, match=words):
            load_state_dict(path)
    config = tmp_path / 'net.json'
    torch.save(state, path)
    for text, words in (('{', 'no JSON'), ('[1]', 'object'), ('{"a": 1}', 'img_res')):
        config.write_text(text)
        with pytest.raises(ValueError, match=words):
            convert_edm(path, tmp_path / 'out', config)
