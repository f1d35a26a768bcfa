"""Analysis of representations: what it measures, keeps, and refuses."""

import copy
import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import detector_config
from mmengine.config import Config
from mmengine.logging import MMLogger
from PIL import Image
from torch import nn

from mmdiff.datasets.toy_shapes import CLASSES, make_toy_voc
from mmdiff.diffusion import DiffusionModel
from mmdiff.engine.representation import (
    AnalysisSettings,
    ModelRequest,
    PriorRequest,
    RepresentationAnalysis,
)
from mmdiff.engine.representation.layers import LayerOutput, PriorTap, as_map
from mmdiff.engine.representation.settings import MEASURES, check_measures
from mmdiff.models import DiffusionUNet
from mmdiff.registry import MODELS

ROOT = Path(__file__).parents[2]
SOURCE = dict(
    type='UNet2DModel',
    block_out_channels=(4, 8),
    down_block_types=('DownBlock2D', 'DownBlock2D'),
    up_block_types=('UpBlock2D', 'UpBlock2D'),
    norm_num_groups=2,
    sample_size=16,
)
QUICK = AnalysisSettings(
    images=24,
    fit_images=40,
    attack_images=8,
    attack_eps=(4,),
    attack_steps=2,
    batch_size=8,
    latents=16,
    active=2,
    sparse_steps=50,
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch, request):
    """Figures take longer than tiny analyses: one test draws."""
    if 'drawn' not in request.fixturenames:
        drawing = 'mmdiff.engine.representation.analysis.draw_figures'
        monkeypatch.setattr(drawing, lambda results, folder: [])


@pytest.fixture
def drawn():
    """Figures are drawn."""


def write_classes(root, levels):
    """Two classes of noisy images of 16 px; 24 to train on of each, 12 to test."""
    generator = np.random.default_rng(0)
    for split, count in (('train', 24), ('val', 12)):
        for name, level in levels.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                noise = generator.integers(0, 36, (16, 16, 3))
                image = Image.fromarray((level + noise).astype(np.uint8))
                image.save(root / split / name / f'{split}{i}.png')
    return root


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp('classes')
    return write_classes(root, {'dark': 90, 'bright': 130})


def classes_config(root, model=None):
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]

    def loader(split):
        where = dict(data_root=str(root), data_prefix=split, pipeline=pipeline)
        dataset = dict(type='CustomDataset', serialize_data=False, **where)
        return dict(batch_size=4, dataset=dataset)

    cfg = dict(
        default_scope='mmpretrain',
        train_dataloader=loader('train'),
        test_dataloader=loader('val'),
    )
    return Config(cfg if model is None else dict(cfg, model=model))


@pytest.fixture
def data(folders):
    """Config of images alone, without a model."""
    pytest.importorskip('mmpretrain')
    return classes_config(folders)


def resnet(classes=2):
    return dict(
        type='ImageClassifier',
        data_preprocessor=dict(mean=[127.5] * 3, std=[60.0] * 3, to_rgb=True),
        backbone=dict(
            type='ResNet_CIFAR', depth=18, base_channels=4, out_indices=(1, 3)
        ),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=classes, in_channels=32),
    )


def prior(data, taps=('up.1',), times=(10,), **kwargs):
    return PriorRequest(copy.deepcopy(SOURCE), data, taps, times, **kwargs)


def report(folder):
    return json.loads((folder / 'representation.json').read_text())


@pytest.fixture
def passes(monkeypatch):
    """Numbers of images of all passes of a prior."""
    seen, compute = [], DiffusionUNet._compute

    def counting(self, x):
        seen.append(len(x))
        return compute(self, x)

    monkeypatch.setattr(DiffusionUNet, '_compute', counting)
    return seen


def test_all_measures_of_a_bare_prior(data, tmp_path, passes, drawn):
    ask = prior(data, times=(10, 500)), tmp_path
    first = RepresentationAnalysis(*ask, settings=QUICK).run()
    raw = report(tmp_path)
    assert raw['schema'] == 'mmdiff-representation/1' and raw['complete']
    assert raw['dataset']['held_out'] == 24 and raw['dataset']['fit'] == 40
    assert raw['models'][0]['fingerprint'] and raw['settings']['seed'] == 0
    assert str(tmp_path) not in json.dumps(raw)
    names = [one['layer'] for one in raw['representations']]
    assert names == ['up.1 at timestep 10', 'up.1 at timestep 500']
    for one in raw['representations']:
        results = one['results']
        assert list(results) == [name for name in MEASURES if name != 'cka']
        assert 1 <= results['rank']['effective_rank']['value'] <= one['dimensions']
        (attacked,) = results['probe']['attacked']
        clean = results['probe']['clean_of_attacked']['value']
        assert attacked['score']['value'] <= clean
        low, high = results['probe']['clean']['interval']
        assert low <= results['probe']['clean']['value'] <= high
        views = [each['view'] for each in results['sphere']['alignment']]
        assert views == ['augmented', 'adversarial, eps 4']
        assert 0 < results['sparse']['unexplained']['value'] < 1
        assert sum(results['frequency']['shares']) == pytest.approx(1, abs=1e-6)
        full = results['dimension']['scores'][-1]
        assert full == pytest.approx(results['probe']['clean']['value'])
    assert raw['representations'][0]['results']['probe']['clean']['value'] == 1
    assert len(raw['cka']) == 1
    for name in [*(f'{m}.png' for m in MEASURES), 'representation.md']:
        assert (tmp_path / name).stat().st_size > 0
    # Started again, it runs a pass of each layer and no more.
    del passes[:]
    again = RepresentationAnalysis(*ask, settings=QUICK).run()
    assert passes == [8] * 2 and again.to_json() == first.to_json()


def test_an_analysis_that_was_stopped_goes_on_to_the_same_numbers(
    data, tmp_path, monkeypatch
):
    from mmdiff.engine.representation.measures import MEASURE

    measures = ('probe', 'rank', 'cka')
    asked = prior(data, taps=('up.1', 'mid'))
    measure, taken = MEASURE['rank'], []

    def stopping(bench):
        if taken:
            raise KeyboardInterrupt
        taken.append(bench)
        return measure(bench)

    with monkeypatch.context() as patch:
        patch.setitem(MEASURE, 'rank', stopping)
        with pytest.raises(KeyboardInterrupt):
            RepresentationAnalysis(
                asked, tmp_path / 'a', measures=measures, settings=QUICK
            ).run()
    assert not report(tmp_path / 'a')['complete']
    for name in 'ab':
        RepresentationAnalysis(
            asked, tmp_path / name, measures=measures, settings=QUICK
        ).run()
    assert report(tmp_path / 'a') == report(tmp_path / 'b')


def test_a_model_is_measured_beside_a_prior(data, folders, tmp_path):
    cfg = classes_config(folders, resnet())
    torch.manual_seed(3)
    model = MODELS.build(dict(cfg.model, _scope_='mmpretrain'))
    model.init_weights()
    checkpoint = tmp_path / 'some.pth'
    torch.save({'state_dict': model.state_dict()}, checkpoint)
    asked = ModelRequest(cfg, str(checkpoint), ['backbone:-1', 'head.fc'])
    analysis = RepresentationAnalysis(
        asked, tmp_path / 'out', prior(data), ('probe', 'rank', 'cka'), QUICK
    )
    results = analysis.run()
    layers = [(one.layer, one.dimensions) for one in results.measured]
    assert layers == [('backbone:1', 32), ('head.fc', 2), ('up.1 at timestep 10', 4)]
    pairs = {(one.first[-8:], one.second[-4:]) for one in results.similarities}
    assert len(pairs) == 3
    # The features are those of the model, of the very images.
    subject = analysis.subjects[0]
    bench = analysis._bench((subject, subject.layers[0]))
    part = bench.loaded.measured[0]
    with torch.no_grad():
        expected = model.eval().extract_feat(bench.inputs(part), 'backbone')[-1]
    kept = torch.from_numpy(bench.features['measured'])[part.numbers]
    assert torch.allclose(kept, expected.mean((2, 3)), atol=1e-6)
    # So are the logits, and 24 images are not enough for 32 directions.
    logits = analysis._bench((subject, subject.layers[1])).features['measured']
    with torch.no_grad():
        head = model.head.fc(expected.mean((2, 3)))
    assert np.allclose(logits[part.numbers], head, atol=1e-5)
    rank = results.measured[0].results['rank']
    assert rank.limit == 23 and '24 images have 23 directions' in rank.notes[0]
    assert results.measured[1].results['rank'].notes == []
    raw = report(tmp_path / 'out')
    assert raw['models'][0]['checkpoint'] == 'some'


def test_a_detector_is_probed_where_its_objects_are(tmp_path):
    root = make_toy_voc(tmp_path / 'toy', 22, 20, size=64)
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(64, 64), keep_ratio=True),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='PackDetInputs'),
    ]

    def loader(split):
        where = dict(
            data_root=f'{root}/',
            data_prefix=dict(sub_data_root=''),
            ann_file=f'ImageSets/Main/{split}.txt',
            metainfo=dict(classes=CLASSES),
            pipeline=copy.deepcopy(pipeline),
        )
        dataset = dict(type='VOCDataset', serialize_data=False, **where)
        return dict(batch_size=2, dataset=dataset)

    cfg = Config(
        dict(
            model=detector_config('faster-rcnn', 'resnet'),
            default_scope='mmdet',
            train_dataloader=loader('train'),
            test_dataloader=loader('val'),
        )
    )
    settings = AnalysisSettings(
        attack_images=4, attack_steps=2, attack_eps=(16,), latents=8, active=2
    )
    asked = ModelRequest(cfg, 'none', ['backbone:0', 'neck:1'])
    measures = ('probe', 'dimension', 'frequency')
    results = RepresentationAnalysis(
        asked, tmp_path / 'out', measures=measures, settings=settings
    ).run()
    raw = report(tmp_path / 'out')
    assert raw['task'] == 'detection' and raw['complete'] and results.refused == []
    for one in results.measured:
        probe = one.results['probe']
        assert probe.metric.startswith('Jaccard') and probe.images == 20
        assert probe.attacked[0].score.value <= probe.clean_of_attacked.value
        assert one.results['dimension'].scores[-1] > 0
    asked = ModelRequest(cfg, 'none', ['rpn_head.rpn_cls:1'])
    with pytest.raises(ValueError, match='is not run by extract_feat, and the rest of'):
        RepresentationAnalysis(asked, tmp_path / 'a', settings=settings)


class Several(nn.Module):
    """Gives maps, a dict, numbers, and one row for each object."""

    def __init__(self):
        super().__init__()
        self.maps = nn.ModuleList([nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)])
        self.named = Named()
        self.last = nn.Identity()

    def extract_feat(self, x):
        x = self.maps[0](x)
        self.named(x)
        self.last((self.maps[1](x), x.argmax(1), x.flatten(0, 1)))


class Named(nn.Module):
    def forward(self, x):
        return {'x': x}


@pytest.mark.parametrize(
    'layer, words',
    [
        ('map', "no layer 'map' in Several; near it: maps"),
        ('zzz', "no layer 'zzz' in Several; its parts: maps, named, last"),
        ('maps', 'not run by extract_feat, and the rest of Several does not run'),
        ('named', 'Layer named gives dict, not a tensor of features'),
        ('last', 'Layer last gives 3 outputs in a pass; name one of them: last:0 to'),
        ('last:1', 'Layer last:1 gives torch.int64, not a tensor of features'),
        ('last:2', r'gives shape \(8, 2, 2\) for 2 images'),
        ('last:3', 'last:3 is out of range: last gives 3 outputs, last:0 to last:2'),
        ('last:x', '--layer last:x must end in a whole number'),
    ],
)
def test_a_layer_that_cannot_be_looked_at_is_one_sentence(layer, words):
    with pytest.raises(ValueError, match=words):
        LayerOutput(Several(), layer)(torch.zeros(2, 3, 2, 2))


def test_layers_are_maps_and_gradients_flow():
    x = torch.rand(2, 3, 2, 2, requires_grad=True)
    model = Several()
    (value,) = LayerOutput(model, 'last:-3')(x)
    assert torch.equal(value, model.maps[1](model.maps[0](x)))
    value.sum().backward()
    assert x.grad.abs().sum() > 0
    tokens = torch.rand(2, 5, 7)
    assert torch.equal(as_map(tokens, 2, '').mean((2, 3)), tokens.mean(1))
    vector = torch.rand(2, 5)
    assert torch.equal(as_map(vector, 2, '').mean((2, 3)), vector)


def test_taps_of_one_prior_do_not_mix():
    torch.manual_seed(0)
    backbone = DiffusionUNet(copy.deepcopy(SOURCE), timestep=10, out_indices=(0, -1))
    taps = [PriorTap(backbone, 'up.1', time) for time in (10, 500)]
    x = torch.rand(2, 3, 16, 16)
    first = [tap(x)[0] for tap in taps]
    for tap, value in zip(reversed(taps), reversed(first)):
        assert torch.equal(tap(x)[0], value)
    assert not torch.equal(*first)


def analyse(*args, measures=('rank',), settings=QUICK, **kwargs):
    return RepresentationAnalysis(*args, measures=measures, settings=settings, **kwargs)


def test_what_cannot_be_analysed_is_refused_before_any_work(
    data, folders, tmp_path, passes
):
    with pytest.raises(ValueError, match=r'needs --timestep \(or --sigma\)'):
        analyse(prior(data, times=()), tmp_path)
    with pytest.raises(ValueError, match='needs --taps'):
        analyse(prior(data, taps=()), tmp_path)
    with pytest.raises(ValueError, match='compared with itself'):
        analyse(prior(data), tmp_path, prior(data, taps=('mid',)))
    cfg = classes_config(folders, resnet())
    with pytest.raises(FileNotFoundError, match='no checkpoint nowhere.pth'):
        analyse(ModelRequest(cfg, 'nowhere.pth'), tmp_path)
    weights = tmp_path / 'other.pth'
    cases = {
        'lacks [0-9]+ weights of ImageClassifier': {},
        'is of another model: size mismatch': {'head.fc.weight': torch.zeros(3, 32)},
    }
    for words, state in cases.items():
        torch.save({'state_dict': state}, weights)
        with pytest.raises(ValueError, match=words):
            analyse(ModelRequest(cfg, str(weights)), tmp_path)
    assert passes == [] and not (tmp_path / 'representation.json').exists()


def test_images_that_tell_nothing_are_refused(data, folders, tmp_path):
    with pytest.raises(ValueError, match='images=19 is too few for any'):
        AnalysisSettings(images=19)
    few = copy.deepcopy(data)
    few.test_dataloader.dataset.indices = 12
    with pytest.raises(ValueError, match='test set has 12 images to take, too few'):
        analyse(prior(few), tmp_path / 'out')
    few.pop('train_dataloader')
    with pytest.raises(ValueError, match='has no train_dataloader and test_dataloader'):
        analyse(prior(few), tmp_path / 'out')
    few.test_dataloader.dataset.indices = 20
    with pytest.raises(ValueError, match='rest of the test set has 0 images to take'):
        analyse(prior(few), tmp_path / 'out', settings=replace(QUICK, fit_from='test'))
    one = copy.deepcopy(data)
    one.train_dataloader.dataset.indices = 24  # the first class by name
    with pytest.raises(ValueError, match='show one class only'):
        analyse(prior(one), tmp_path / 'out')


def test_other_images_cannot_be_compared(data, folders, tmp_path):
    other = write_classes(tmp_path / 'other', {'dark': 90, 'bright': 130})
    cfg = classes_config(other, resnet())
    with pytest.raises(ValueError, match='--compare has other training images than'):
        analyse(prior(data), tmp_path / 'out', ModelRequest(cfg, 'none'))
    other = write_classes(tmp_path / 'third', {'dark': 90, 'light': 130})
    cfg = classes_config(other, resnet())
    with pytest.raises(ValueError, match='or other names of them'):
        analyse(prior(data), tmp_path / 'out', ModelRequest(cfg, 'none'))


def test_a_missing_package_is_named_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn.decomposition', None)
    asked = PriorRequest('mmdiff::nothing', Config({}), ['up.1'], [10])
    with pytest.raises(ValueError, match=r"pip install 'mmdiff\[analysis\]'"):
        analyse(asked, tmp_path, measures=('sparse',))


def test_a_measure_that_cannot_be_taken_is_said(data, folders, tmp_path):
    cfg = classes_config(folders, resnet())
    asked = ModelRequest(cfg, 'none', ['head.fc'])
    results = analyse(asked, tmp_path, measures=('sparse', 'rank', 'cka')).run()
    (one,) = results.measured
    assert '2 active latents are no sparse code of 2' in one.results['sparse'].refused
    assert one.results['rank'].limit == 2
    assert 'CKA compares two representations at least' in results.refused[0]
    page = (tmp_path / 'representation.md').read_text()
    assert 'no sparse. 2 active latents' in page and 'CKA compares two' in page


def test_no_measure_is_started_after_the_time(data, tmp_path, monkeypatch):
    from mmdiff.engine.representation import analysis

    asked = prior(data), tmp_path
    run = analyse(*asked, measures=('rank', 'cka'), minutes=1)
    monkeypatch.setattr(analysis.clock, 'monotonic', lambda: run.deadline + 1)
    with pytest.raises(ValueError, match='no time left for a single measure: 2 are'):
        run.run()
    with pytest.raises(ValueError, match='no time left for any measure'):
        analyse(*asked, minutes=0)


def test_names_of_measures_are_checked_and_put_in_order():
    assert check_measures(('cka', 'probe')) == ('probe', 'cka')
    with pytest.raises(ValueError, match="no measure 'ranks'; there are: probe, rank"):
        check_measures(('ranks',))


@pytest.fixture
def tool(data, tmp_path, monkeypatch):
    """``tool(*words)``: runs tools/analyze_representation.py on a tiny prior."""
    (tmp_path / 'data.py').write_text(data.pretty_text)
    main = runpy.run_path(str(ROOT / 'tools' / 'analyze_representation.py'))['main']
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    DiffusionModel.from_pretrained(copy.deepcopy(SOURCE)).save_pretrained('tiny')
    quick = '--images 24 --fit-images 40 --attack-eps none --batch-size 8 '
    quick += '--latents 16 --active 2 --sparse-steps 20 --out out'

    def run(words):
        argv = ['analyze_representation.py', *words.split(), *quick.split()]
        monkeypatch.setattr(sys, 'argv', argv)
        main()

    yield run
    MMLogger._instance_dict.pop('analyze_representation', None)


PRIOR = 'tiny --data data.py --taps up.1'


def test_the_tool_shows_tables_and_goes_on_with_more_measures(tool, tmp_path, capsys):
    words = f'{PRIOR} --timestep 10 --compare tiny random --measures'
    tool(f'{words} rank')
    tool(f'{words} rank probe cka')
    shown = ' '.join(capsys.readouterr().out.split())
    assert 'effective rank' in shown and 'CKA, debiased' in shown
    raw = report(tmp_path / 'out')
    assert [one['name'] for one in raw['models']] == ['tiny', 'tiny (untrained)']
    assert raw['models'][1]['untrained'] and len(raw['cka']) == 1
    assert raw['representations'][0]['results']['probe']['attacked'] == []
    with pytest.raises(SystemExit, match='out holds another analysis .tiny: another'):
        tool(f'{PRIOR} --timestep 10 --measures rank --seed 1')
    tool(f'{PRIOR} --timestep 10 --measures rank --seed 1 --fresh')


@pytest.mark.parametrize(
    'words, sentence',
    [
        (f'{PRIOR} --measures rank', 'needs --timestep'),
        (f'{PRIOR} --sigma 0.5', 'this prior counts timesteps'),
        ('tiny --data data.py --taps up.9 --timestep 10', "There is no tap 'up.9'"),
        ('tiny --taps up.1 --timestep 10', 'brings no images; give --data CONFIG'),
        ('tiny best --data data.py', 'best is no weights of the prior tiny'),
        ('nothing --data data.py --taps up.1 --timestep 10', 'nothing'),
        ('data.py', 'data.py needs a checkpoint: give one after it, or the word none'),
        (f'{PRIOR} --timestep 10 --compare a b c', '--compare takes CONFIG CKPT'),
        (f'{PRIOR} --timestep 10 --measures all', "There is no measure 'all'"),
        ('no.py none', 'no.py'),
    ],
)
def test_a_command_that_cannot_be_is_one_sentence(tool, words, sentence):
    with pytest.raises(SystemExit) as refused:
        tool(words)
    code = str(refused.value.code)
    assert sentence in code and '\n' not in code
    assert code.startswith('analyze_representation.py: ')
