"""Published robust weights: files by the names of their authors, and what they become.

No published file is here: these are made by the names and shapes of the code that
writes them (see the docstrings of the converters).
"""

import argparse
import copy
import math
import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import detector_config
from mmdet.registry import MODELS as DETECTORS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torchvision.models import resnet50, wide_resnet50_2

from mmdiff.engine.robust_weights import (
    convert_convnext,
    convert_detector,
    convert_resnet,
)
from mmdiff.engine.robust_weights.configs import build_bare
from mmdiff.engine.robust_weights.files import check_names
from mmdiff.engine.robust_weights.resnet import (
    check_activation,
    like_classifier,
    mm_name,
    resnet_config,
)
from mmdiff.registry import MODELS

pytest.importorskip('mmpretrain')

ROOT = Path(__file__).parents[2]
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def filled(network):
    """A network with weights, and normalisation that does something."""
    generator = torch.Generator().manual_seed(0)
    for value in network.state_dict().values():
        if value.ndim > 1:
            scale = (2 / value[0].numel()) ** 0.5
            value.copy_(scale * torch.randn(value.shape, generator=generator))
        elif value.is_floating_point():
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return network.eval()


def madry(network, **beside):
    """What ``train_model`` of the robustness library saves of a network."""
    state = {}
    for inside in ('module.', 'module.attacker.'):
        normalizer = 'normalize' if 'attacker' in inside else 'normalizer'
        state[f'{inside}{normalizer}.new_mean'] = MEAN
        state[f'{inside}{normalizer}.new_std'] = STD
        for name, value in network.state_dict().items():
            state[f'{inside}model.{name}'] = value
    return {
        'model': state,
        'optimizer': {'state': {0: {'momentum_buffer': torch.zeros(2)}}},
        'schedule': None,
        'epoch': 90,
        'amp': 'N/A',
        **beside,
    }


def small_resnet(depth=18):
    """A narrow ResNet by the names of torchvision."""
    from mmpretrain.models import ResNet

    torch.manual_seed(0)
    network = ResNet(depth, stem_channels=4, base_channels=4)
    network.fc = torch.nn.Linear(network.feat_dim, 10)
    return network


@pytest.fixture
def unfilled(monkeypatch):
    """Large models are built without drawing their weights."""
    for name in ('uniform_', 'normal_'):
        monkeypatch.setattr(torch.Tensor, name, lambda self, *args, **kwargs: self)


def image():
    """A BGR image of whole values, as mm packages load it."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (3, 64, 64), generator=generator, dtype=torch.uint8)


def classifier(backbone, preprocessor, channels, classes=1000, neck=True):
    model = dict(
        type='ImageClassifier',
        data_preprocessor=preprocessor,
        backbone=backbone,
        neck=dict(type='GlobalAveragePooling') if neck else None,
        head=dict(type='LinearClsHead', num_classes=classes, in_channels=channels),
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(model).eval()


def logits(model, x):
    data = model.data_preprocessor(dict(inputs=[x]))
    with torch.no_grad():
        return model(data['inputs'], mode='tensor')[0]


def write_config(path, **settings):
    path.write_text('\n'.join(f'{k} = {v!r}' for k, v in settings.items()))
    return str(path)


def detector_of(backbone, **preprocessor):
    """Text of a config of a detector with a backbone."""
    preprocessor = dict(type='DetDataPreprocessor', **preprocessor)
    neck = dict(type='FPN', in_channels=[4, 8, 16, 32], out_channels=8, num_outs=5)
    head = dict(type='RetinaHead', num_classes=2, in_channels=8, feat_channels=8)
    model = dict(
        type='RetinaNet',
        data_preprocessor=preprocessor,
        backbone=backbone,
        neck=neck,
        bbox_head=head,
    )
    return dict(default_scope='mmdet', model=model)


RGB = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


def test_the_resnet_of_salman_gives_the_logits_of_torchvisions(tmp_path, unfilled):
    network = filled(resnet50())
    torch.save(madry(network), tmp_path / 'resnet50_linf_eps4.0.ckpt')
    out = tmp_path / 'out.pth'
    done = convert_resnet(tmp_path / 'resnet50_linf_eps4.0.ckpt', out)
    assert done.backbone == dict(type='ResNet', depth=50)
    settings = done.preprocessing.config(classifies=True)
    assert settings == {**RGB, 'to_rgb': True}
    saved = torch.load(out, weights_only=True)
    model = classifier(done.backbone, settings, 2048)
    model.load_state_dict(saved['state_dict'])  # strict
    x = image()
    with torch.no_grad():
        expected = network(((x.flip(0) / 255 - MEAN) / STD)[None])[0]
    assert (logits(model, x) - expected).abs().max() < 1e-5 * expected.abs().max()
    # Of detectors, by the init_cfg that the tool prints.
    init = dict(type='Pretrained', checkpoint=str(out), prefix='backbone.')
    backbone = DETECTORS.build(dict(type='mmdet.ResNet', depth=50, init_cfg=init))
    backbone.init_weights()
    ours = backbone.state_dict()
    assert all(
        ours[name].equal(v)
        for name, v in network.state_dict().items()
        if not name.startswith('fc.')
    )
    assert len(ours) == len(network.state_dict()) - 2


class Evil:
    """What runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_file_is_executed(tmp_path):
    network = small_resnet()
    beside = dict(
        args=argparse.Namespace(arch='resnet18', eps=np.float64(4)),
        evil=Evil(tmp_path / 'executed'),
        listed=[Path('somewhere'), {1, 2}, math.inf],
    )
    for number, zipped in enumerate((True, False)):
        path = tmp_path / f'{number}.ckpt'
        torch.save(
            madry(network, **beside), path, _use_new_zipfile_serialization=zipped
        )
        done = convert_resnet(path, tmp_path / f'{number}.pth')
        assert not (tmp_path / 'executed').exists()
        assert done.backbone['depth'] == 18
        weight = done.state['backbone.layer4.1.conv2.weight']
        assert weight.equal(network.layer4[1].conv2.weight)


def test_plain_names_of_ares_need_their_normalisation(tmp_path):
    path, out = tmp_path / 'ARES.pth', tmp_path / 'out.pth'
    network = small_resnet()
    torch.save(network.state_dict(), path)
    with pytest.raises(ValueError, match='does not say .* --normalization imagenet'):
        convert_resnet(path, out)
    assert str(convert_resnet(path, out, 'imagenet').preprocessing).endswith('RGB')
    none = convert_resnet(path, tmp_path / 'none.pth', 'none')
    assert none.preprocessing.std == (255,) * 3
    # A training checkpoint of timm has the average as well.
    both = dict(state_dict=network.state_dict(), state_dict_ema=network.state_dict())
    torch.save({**both, 'arch': 'resnet18'}, path)
    with pytest.raises(ValueError, match='state_dict, state_dict_ema, and none is'):
        convert_resnet(path, tmp_path / 'ema.pth', 'imagenet')
    convert_resnet(path, tmp_path / 'ema.pth', 'imagenet', key='state_dict_ema')
    headless = {k: v for k, v in network.state_dict().items() if 'fc' not in k}
    torch.save(headless, path)
    assert not convert_resnet(path, tmp_path / 'no.pth', 'imagenet').has_head


def changed(state, name, value=None):
    """A state dict without a name, or with another value."""
    state = {k: v for k, v in state.items() if k != name}
    return state if value is None else {**state, name: value}


def test_what_is_no_such_resnet_is_refused_and_nothing_is_written(tmp_path):
    path, out = tmp_path / 'x.ckpt', tmp_path / 'out.pth'
    network = small_resnet()
    state = madry(network)['model']

    def refused(match, content, **kwargs):
        torch.save(content, path)
        with pytest.raises(ValueError, match=match) as caught:
            convert_resnet(path, out, **kwargs)
        assert '\n' not in str(caught.value) and not out.exists()

    # A missing, a left-over and a misshapen weight, in both copies.
    conv = 'model.layer2.0.conv2.weight'
    for value, words in (
        (None, '1 missing .backbone.layer2.0.conv2.weight'),
        (torch.zeros(1), r'another shape .*conv2.weight \(1,\) for \(8, 8, 3, 3\)'),
    ):
        less = changed(state, f'module.{conv}', value)
        less = changed(less, f'module.attacker.{conv}', value)
        refused(words, {'model': less})
    more = {
        f'module.{p}model.layer1.0.se.weight': torch.zeros(1) for p in ('', 'attacker.')
    }
    refused('1 left over .backbone.layer1.0.se.weight', {'model': {**state, **more}})
    other = changed(state, f'module.attacker.{conv}', torch.zeros(1))
    refused('twice, and attacker.* is not the same', {'model': other})
    more = {'module.further.weight': torch.zeros(1)}
    refused("has 'further.weight' beside", {'model': {**state, **more}})
    refused('itself says mean=.123.675.* leave', {'model': state}, normalization='none')
    refused(
        "'resnet' must be one of imagenet", {'model': state}, normalization='resnet'
    )
    refused('has no ResNet', {'model': {'stem.weight': torch.zeros(1)}})
    refused('these sets of weights: none', {'epoch': 1})
    refused("'module.x' among its weights", {'model': {**state, 'module.x': 1}})
    refused('holds a list', [1])
    path.write_bytes(b'no file of torch')
    with pytest.raises(ValueError, match='cannot be read'):
        convert_resnet(path, out)
    with pytest.raises(FileNotFoundError, match='There is no file'):
        convert_resnet(tmp_path / 'none.ckpt', out)
    with pytest.raises(ValueError, match='must end with .pth'):
        convert_resnet(path, tmp_path / 'out.bin')
    out.touch()
    with pytest.raises(FileExistsError, match='exists already'):
        convert_resnet(path, out)


def test_wide_networks_have_their_config_and_those_of_ares_are_refused(unfilled):
    state = wide_resnet50_2().state_dict()
    config = resnet_config(state, 'x')
    assert config['base_channels'] == 128 and config['expansion'] == 2
    check_names(
        {mm_name(name): value for name, value in state.items()},
        like_classifier(config, state),
        'x',
        'it',
    )
    # Names do not say that they have another activation.
    with pytest.raises(ValueError, match='Wide-ResNet-50 without .* have GELU'):
        check_activation(config, 'x')
    check_activation(dict(config, expansion=None), 'x')


def test_a_config_with_another_preprocessor_or_backbone_is_refused(tmp_path):
    path = tmp_path / 'x.ckpt'
    torch.save(madry(small_resnet()), path)

    def convert(backbone, **preprocessor):
        name = write_config(
            tmp_path / 'cfg.py', **detector_of(backbone, **preprocessor)
        )
        out = tmp_path / 'out.pth'
        out.unlink(missing_ok=True)
        convert_resnet(path, out, config=name)

    backbone = dict(type='ResNet', depth=18, stem_channels=4, base_channels=4)
    convert(backbone, **RGB, bgr_to_rgb=True)
    with pytest.raises(ValueError, match=r'BGR, and .* set data_preprocessor=dict'):
        convert(backbone, **RGB)
    with pytest.raises(
        ValueError, match=r'by mean=\[0.0, 0.0, 0.0\].* expect mean=.12'
    ):
        convert(backbone, bgr_to_rgb=True)
    with pytest.raises(ValueError, match="set style='pytorch'"):
        convert(dict(backbone, style='caffe'), **RGB, bgr_to_rgb=True)
    with pytest.raises(ValueError, match='has not the weights of the backbone'):
        convert(dict(backbone, depth=34), **RGB, bgr_to_rgb=True)


def test_an_adversarial_training_starts_from_the_weights(tmp_path):
    network, out = small_resnet(), tmp_path / 'out.pth'
    torch.save(madry(network), tmp_path / 'x.ckpt')
    done = convert_resnet(tmp_path / 'x.ckpt', out)
    init = dict(type='Pretrained', checkpoint=str(out), prefix='backbone.')
    backbone = dict(done.backbone, init_cfg=init)
    model = dict(
        type='mmdiff.AdversarialModel',
        model=detector_of(backbone, **RGB, bgr_to_rgb=True)['model'],
        attack=dict(type='mmdiff.PGD', eps=4),
    )
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(model)
    model.init_weights()
    for name, value in model.deployed.backbone.state_dict().items():
        assert value.equal(network.state_dict()[name]), name


def test_configs_that_start_from_robust_weights_say_what_these_expect():
    for name, mean in (('r50', RGB['mean']), ('convnext-t', [0] * 3)):
        file = f'faster-rcnn_{name}-robust_fpn_free-at_8xb2-6e_coco.py'
        cfg = Config.fromfile(ROOT / 'configs' / 'adversarial_training' / file)
        start = cfg.model.model.backbone.init_cfg
        assert start.prefix == 'backbone.' and start.type == 'Pretrained'
        preprocessor = cfg.model.model.data_preprocessor
        assert preprocessor.mean == mean and preprocessor.bgr_to_rgb


ARCH = dict(depths=[1, 1, 2, 1], channels=[8, 12, 16, 24])
STEM = (4, 6, 8)


def norm(state, name, x):
    """LayerNorm over channels of (N, C, H, W)."""
    x = x.movedim(1, -1)
    weight, bias = state[f'{name}.weight'], state[f'{name}.bias']
    return F.layer_norm(x, x.shape[-1:], weight, bias, 1e-6).movedim(-1, 1)


def convnext(state, x):
    """Logits by the names of timm: Liu et al. (2022), Singh et al. (2023)."""

    def conv(name, x, *args, **kwargs):
        return F.conv2d(
            x, state[f'{name}.weight'], state[f'{name}.bias'], *args, **kwargs
        )

    if 'stem.0.weight' in state:
        x = norm(state, 'stem.1', conv('stem.0', x, 4))
    else:
        for place in range(len(STEM)):
            stride = (2, 2, 1)[place]
            x = conv(f'stem.stem.{3 * place}', x, stride, 1)
            x = F.gelu(norm(state, f'stem.stem.{3 * place + 1}', x))
    for i, depth in enumerate(ARCH['depths']):
        stage = f'stages.{i}'
        if i:
            x = conv(
                f'{stage}.downsample.1', norm(state, f'{stage}.downsample.0', x), 2
            )
        for k in range(depth):
            block = f'{stage}.blocks.{k}'
            h = conv(f'{block}.conv_dw', x, 1, 3, groups=x.shape[1])
            h = norm(state, f'{block}.norm', h).movedim(1, -1)
            for layer in ('fc1', 'fc2'):
                name = f'{block}.mlp.{layer}'
                h = F.linear(h, state[f'{name}.weight'], state[f'{name}.bias'])
                h = F.gelu(h) if layer == 'fc1' else h
            x = x + (h * state[f'{block}.gamma']).movedim(-1, 1)
    x = norm(state, 'head.norm', x.mean((2, 3), keepdim=True)).flatten(1)
    return F.linear(x, state['head.fc.weight'], state['head.fc.bias'])


def timm_state(conv_stem):
    """Random weights by the names and shapes of timm 0.8."""
    shapes, widths = {}, ARCH['channels']

    def add(name, *shape, kind='conv'):
        shapes[f'{name}.weight'] = shape
        shapes[f'{name}.bias'] = shape[:1]

    if conv_stem:
        before = 3
        for place, width in enumerate(STEM):
            add(f'stem.stem.{3 * place}', width, before, 3, 3)
            add(f'stem.stem.{3 * place + 1}', width)
            before = width
    else:
        add('stem.0', widths[0], 3, 4, 4)
        add('stem.1', widths[0])
    for i, (depth, width) in enumerate(zip(ARCH['depths'], widths)):
        if i:
            add(f'stages.{i}.downsample.0', widths[i - 1])
            add(f'stages.{i}.downsample.1', width, widths[i - 1], 2, 2)
        for k in range(depth):
            block = f'stages.{i}.blocks.{k}'
            shapes[f'{block}.gamma'] = (width,)
            add(f'{block}.conv_dw', width, 1, 7, 7)
            add(f'{block}.norm', width)
            add(f'{block}.mlp.fc1', 4 * width, width)
            add(f'{block}.mlp.fc2', width, 4 * width)
    add('head.norm', widths[-1])
    add('head.fc', 10, widths[-1])
    generator = torch.Generator().manual_seed(0)
    return {
        name: 0.3 * torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize('conv_stem', [True, False])
def test_convnexts_give_the_logits_of_their_formulas(conv_stem, tmp_path):
    state = timm_state(conv_stem)
    if conv_stem:  # as DDP and WrappedModel name them, without normalisation
        saved = {f'module.base_model.{k}': v for k, v in state.items()}
    else:
        saved = {f'base_model.model.{k}': v for k, v in state.items()}
        saved['base_model.normalize.mean'] = MEAN[None]
        saved['base_model.normalize.std'] = STD[None]
    torch.save(saved, tmp_path / 'weights.pt')
    done = convert_convnext(tmp_path / 'weights.pt', tmp_path / 'out.pth')
    settings = done.preprocessing.config(classifies=True)
    expected = dict(mean=[0] * 3, std=[255] * 3) if conv_stem else RGB
    assert settings == {**expected, 'to_rgb': True}
    model = classifier(done.backbone, settings, 24, classes=10, neck=False)
    assert hasattr(model.backbone, 'depths')
    read = torch.load(tmp_path / 'out.pth', weights_only=True)
    model.load_state_dict(read['state_dict'])  # strict
    x = image()
    seen = x.flip(0)[None] / 255
    seen = seen if conv_stem else (seen - MEAN) / STD
    torch.testing.assert_close(
        logits(model, x), convnext(state, seen)[0], rtol=1e-4, atol=1e-4
    )


def test_stems_of_the_published_convnexts(tmp_path):
    """Shapes of the stems by utils_architecture.py, with their four sizes."""
    stems = dict(
        tiny=(48, 96), small=(48, 96), base=(64, 96, 128), large=(96, 144, 192)
    )
    for arch, stem in stems.items():
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            model = MODELS.build(
                dict(
                    type='mmdiff.ConvStemConvNeXt',
                    arch=dict(depths=[1] * 4, channels=[stem[-1]] * 4),
                    stem_channels=stem,
                )
            )
        strides = [m.stride[0] for m in model.downsample_layers[0][::3]]
        assert strides == [2, 2, 1][: len(stem)], arch
    with pytest.raises(ValueError, match='must have two numbers'):
        MODELS.build(dict(type='mmdiff.ConvStemConvNeXt', stem_channels=(48, 90)))


def test_what_is_no_such_convnext_is_refused(tmp_path):
    path, out = tmp_path / 'x.pt', tmp_path / 'out.pth'
    state = timm_state(conv_stem=True)
    for content, words in (
        (
            changed(state, 'stages.2.blocks.1.gamma'),
            '1 missing .backbone.stages.2.1.ga',
        ),
        (
            {**state, 'stages.0.blocks.0.grn.weight': torch.zeros(1)},
            '1 left over .stag',
        ),
        (changed(state, 'stem.stem.6.bias', torch.zeros(3)), 'must have two numbers'),
        (timm_state(conv_stem=False), 'does not say how'),
        (small_resnet().state_dict(), 'no ConvNeXt by the names of timm'),
    ):
        torch.save(content, path)
        with pytest.raises(ValueError, match=words):
            convert_convnext(path, out)
        assert not out.exists()


def test_norms_that_only_detectors_have_are_named(tmp_path):
    torch.save(timm_state(conv_stem=True), tmp_path / 'x.pt')
    backbone = dict(
        type='mmdiff.ConvStemConvNeXt',
        arch=ARCH,
        stem_channels=STEM,
        out_indices=[0, 1, 2, 3],
        gap_before_final_norm=False,
    )
    preprocessor = dict(mean=[0] * 3, std=[255] * 3, bgr_to_rgb=True)
    cfg = detector_of(backbone, **preprocessor)
    name = write_config(
        tmp_path / 'cfg.py', custom_imports=dict(imports=['mmdiff']), **cfg
    )
    done = convert_convnext(tmp_path / 'x.pt', tmp_path / 'out.pth', config=name)
    assert [n.removeprefix('backbone.') for n in done.anew] == [
        f'norm{i}.{kind}' for i in range(3) for kind in ('weight', 'bias')
    ]


class Shapes(dict):
    """Shapes by name."""

    def add(self, name, *shape):
        self[f'{name}.weight'], self[f'{name}.bias'] = shape, shape[:1]


def of_convnext_tiny(shapes, widths):
    shapes.add('backbone.downsample_layers.0.0', 96, 3, 4, 4)
    shapes.add('backbone.downsample_layers.0.1', 96)
    for i, (depth, width) in enumerate(zip((3, 3, 9, 3), widths)):
        if i:
            before = f'backbone.downsample_layers.{i}'
            shapes.add(f'{before}.0', widths[i - 1])
            shapes.add(f'{before}.1', width, widths[i - 1], 2, 2)
        shapes.add(f'backbone.norm{i}', width)
        for k in range(depth):
            block = f'backbone.stages.{i}.{k}'
            shapes[f'{block}.gamma'] = (width,)
            shapes.add(f'{block}.depthwise_conv', width, 1, 7, 7)
            shapes.add(f'{block}.norm', width)
            shapes.add(f'{block}.pointwise_conv1', 4 * width, width)
            shapes.add(f'{block}.pointwise_conv2', width, 4 * width)


def of_fcos(shapes):
    for i in range(4):
        for branch in ('cls', 'reg'):
            shapes.add(f'bbox_head.{branch}_convs.{i}.conv', 256, 256, 3, 3)
            shapes.add(f'bbox_head.{branch}_convs.{i}.gn', 256)
    for i in range(5):
        shapes[f'bbox_head.scales.{i}.scale'] = ()
    for name, width in (('cls', 80), ('reg', 4), ('centerness', 1)):
        shapes.add(f'bbox_head.conv_{name}', width, 256, 3, 3)


def of_faster_rcnn(shapes):
    shapes.add('rpn_head.rpn_conv', 256, 256, 3, 3)
    shapes.add('rpn_head.rpn_cls', 3, 256, 1, 1)
    shapes.add('rpn_head.rpn_reg', 12, 256, 1, 1)
    shapes.add('roi_head.bbox_head.shared_fcs.0', 1024, 256 * 7 * 7)
    shapes.add('roi_head.bbox_head.shared_fcs.1', 1024, 1024)
    shapes.add('roi_head.bbox_head.fc_cls', 81, 1024)
    shapes.add('roi_head.bbox_head.fc_reg', 320, 1024)


def mmdet_2(detector, backbone):
    """Names and shapes of the detectors of oddefense, by the code of mmdet 2.28."""
    shapes, widths = Shapes(), [256, 512, 1024, 2048]
    if backbone == 'r50':
        for name, value in resnet50().state_dict().items():
            if not name.startswith('fc.'):
                shapes[f'backbone.{name}'] = tuple(value.shape)
    else:
        widths = [96, 192, 384, 768]
        of_convnext_tiny(shapes, widths)
    levels = widths[1:] if detector == 'fcos' else widths
    for i, width in enumerate(levels):
        shapes.add(f'neck.lateral_convs.{i}.conv', 256, width, 1, 1)
    for i in range(5 if detector == 'fcos' else 4):
        shapes.add(f'neck.fpn_convs.{i}.conv', 256, 256, 3, 3)
    (of_fcos if detector == 'fcos' else of_faster_rcnn)(shapes)
    return shapes


@pytest.mark.parametrize(
    'detector, backbone, config',
    [
        ('fcos', 'r50', 'fcos_r50_fpn_gn-head_oddefense_coco.py'),
        ('fcos', 'convnext', 'fcos_convnext-t_fpn_gn-head_oddefense_coco.py'),
        ('frcnn', 'convnext', 'faster-rcnn_convnext-t_fpn_oddefense_coco.py'),
        ('frcnn', 'r50', None),
    ],
)
def test_configs_have_the_weights_of_oddefense(
    detector, backbone, config, tmp_path, unfilled
):
    path = ROOT / 'configs' / 'robustness' / str(config)
    if config is None:
        path = tmp_path / 'cfg.py'
        path.write_text("_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'")
    model, _ = build_bare(str(path))
    ours = {name: tuple(v.shape) for name, v in model.state_dict().items()}
    assert ours == mmdet_2(detector, backbone)
    mean = model.data_preprocessor.mean.flatten().tolist()
    assert mean == pytest.approx(RGB['mean'])
    assert model.data_preprocessor.pad_size_divisor == 32


NORMALIZE = (
    "dict(\n    type='Normalize',\n    mean=[123.675, 116.28, 103.53],\n"
    '    std=[58.395, 57.12, 57.375],\n    to_rgb=True)'
)


def test_a_detector_of_mmdet_2_predicts_in_mmdet_3(tmp_path):
    cfg = detector_config('fcos', 'resnet')
    cfg.backbone.style = 'pytorch'
    cfg.data_preprocessor.update(**RGB, bgr_to_rgb=True)
    torch.manual_seed(0)
    model = DETECTORS.build(cfg)
    meta = dict(CLASSES=tuple('abcde'), config=f'a = {NORMALIZE}', epoch=6)
    state = {f'module.{name}': v for name, v in model.state_dict().items()}
    torch.save(dict(meta=meta, state_dict=state), tmp_path / 'fcos_at.pth')
    plain = cfg.to_dict()
    name = write_config(tmp_path / 'cfg.py', default_scope='mmdet', model=plain)
    convert_detector(tmp_path / 'fcos_at.pth', name, tmp_path / 'out.pth')
    saved = torch.load(tmp_path / 'out.pth', weights_only=True)
    assert tuple(saved['meta']['dataset_meta']['classes']) == tuple('abcde')
    assert all(saved['state_dict'][k].equal(v) for k, v in model.state_dict().items())

    def refused(words, state=state, change=None, **meta_too):
        other = copy.deepcopy(plain)
        if change:
            change(other)
        file = write_config(tmp_path / 'other.py', default_scope='mmdet', model=other)
        content = dict(meta={**meta, **meta_too}, state_dict=state)
        torch.save(content, tmp_path / 'x.pth')
        with pytest.raises(ValueError, match=words):
            convert_detector(tmp_path / 'x.pth', file, tmp_path / 'y.pth')
        assert not (tmp_path / 'y.pth').exists()

    refused("set style='pytorch'", change=lambda c: c['backbone'].update(style='caffe'))
    refused(
        'set data_preprocessor=dict',
        change=lambda c: c['data_preprocessor'].update(std=[1] * 3),
    )
    refused('BGR; set', config=NORMALIZE.replace('True', 'False'))
    refused('1 missing', changed(state, 'module.bbox_head.conv_cls.bias'))
    denoising = {**state, 'module.bbox_head.label_enc.weight': torch.zeros(1)}
    refused('a DN-DETR, which mmdet 3 does not have', denoising)


def test_the_tool_prints_what_a_config_needs(tmp_path, monkeypatch, capsys):
    torch.save(madry(small_resnet()), tmp_path / 'x.ckpt')
    tool = str(ROOT / 'tools' / 'convert_checkpoint.py')

    def run(*args):
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, args)])
        runpy.run_path(tool, run_name='__main__')
        return capsys.readouterr().out

    out = tmp_path / 'out.pth'
    said = run('robust-resnet', tmp_path / 'x.ckpt', out)
    assert 'ResNet-18 of x.ckpt, 122 tensors, with a head' in said
    assert (
        'bgr_to_rgb=True)' in said
        and "base_channels=4, init_cfg=dict(type='Pre" in said
    )
    with pytest.raises(SystemExit, match='convert_checkpoint.py: .* exists already'):
        run('robust-resnet', tmp_path / 'x.ckpt', out)
    with pytest.raises(SystemExit, match='no ConvNeXt by the names of timm'):
        run('robust-convnext', tmp_path / 'x.ckpt', tmp_path / 'y.pth')
    with pytest.raises(SystemExit, match='has not the weights of the model of'):
        name = 'fcos_r50_fpn_gn-head_oddefense_coco.py'
        config = ROOT / 'configs' / 'robustness' / name
        run('oddefense', out, config, tmp_path / 'y.pth')
