"""Backbone and neck run as graphs, and give what the model gives."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from conftest import needs_torch
from torch import nn

from mmdiff.engine.feature_export import FeatureGraph, export_features

ROOT = Path(__file__).parents[2]


@pytest.fixture
def graph(make_detector):
    return FeatureGraph(make_detector('faster-rcnn', 'diffusion'))


def test_a_program_gives_the_features_of_backbone_and_neck(graph, tmp_path):
    needs_torch((2, 4), 'a graph without breaks')
    file, image = tmp_path / 'features.pt2', torch.rand(2, 3, 64, 96)
    assert export_features(graph, file, image) <= 1e-5
    program = torch.export.load(str(file)).module()
    for one, other in zip(graph(image), program(image), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_onnx_gives_the_features_of_backbone_and_neck(graph, tmp_path):
    pytest.importorskip('onnx', reason='onnx is not installed')
    runtime = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
    file, image = tmp_path / 'features.onnx', torch.rand(1, 3, 64, 96)
    assert export_features(graph, file, image) <= 1e-5
    assert [path.name for path in tmp_path.iterdir()] == ['features.onnx']
    session = runtime.InferenceSession(str(file), providers=['CPUExecutionProvider'])
    outputs = session.run(None, {'image': image.numpy()})
    for one, other in zip(graph(image), outputs, strict=True):
        assert torch.allclose(one, torch.from_numpy(other), atol=1e-5)


def test_one_graph_without_breaks_is_compiled(graph):
    needs_torch((2, 4), 'a graph without breaks')
    compiled = torch.compile(graph, fullgraph=True, backend='eager')
    image = torch.rand(1, 3, 64, 64)
    for one, other in zip(graph(image), compiled(image), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


class Drifting(nn.Module):
    """A backbone that a tracer sees another way than it is later."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return (x + self.calls,)


def test_a_graph_that_differs_is_not_left_behind(tmp_path):
    needs_torch((2, 4), 'a graph without breaks')

    class Model(nn.Module):
        backbone = Drifting()

    file = tmp_path / 'features.pt2'
    with pytest.raises(RuntimeError, match='differs from the model'):
        export_features(FeatureGraph(Model()), file, torch.rand(1, 3, 8, 8))
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_a_graph_is_one_sentence(make_detector, tmp_path):
    for noise in ('fresh', 'shared'):
        with pytest.raises(ValueError, match=f'noise={noise!r}.*drawn anew'):
            FeatureGraph(make_detector('faster-rcnn', 'diffusion', noise=noise))
    with pytest.raises(ValueError, match='has no backbone'):
        FeatureGraph(nn.Conv2d(1, 1, 1))
    with pytest.raises(ValueError, match='must end in .onnx or .pt2'):
        export_features(None, tmp_path / 'features.bin', torch.rand(1))


def test_the_command_writes_a_program(tmp_path, monkeypatch, capsys):
    needs_torch((2, 4), 'a graph without breaks')
    config = ROOT / 'configs/detection/retinanet_toy-unet_dfpn_1xb4-2e_toy-voc.py'
    out = tmp_path / 'features.pt2'
    flags = [str(config), '--out', str(out), '--size', '64', '96']
    monkeypatch.setattr(sys, 'argv', ['export_features.py', *flags])
    runpy.run_path(str(ROOT / 'tools' / 'export_features.py'), run_name='__main__')
    printed = capsys.readouterr().out
    assert 'over [127.5, 127.5, 127.5]' in printed
    assert (
        'output 0: (1, 64, 16, 24)' in printed and 'differs from the model' in printed
    )
    assert out.exists()
    monkeypatch.setattr(sys, 'argv', ['export_features.py', *flags[:1], '--out', 'a.b'])
    with pytest.raises(SystemExit, match='must end in'):
        runpy.run_path(str(ROOT / 'tools' / 'export_features.py'), run_name='__main__')
