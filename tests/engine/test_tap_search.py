"""The search of taps and noise level: what it measures, keeps, and refuses."""

import copy
import json

import numpy as np
import pytest
import torch
from conftest import detector_config
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData
from PIL import Image

from mmdiff.datasets.toy_shapes import CLASSES, make_toy_voc
from mmdiff.diffusion import DiffusionModel
from mmdiff.engine.tap_search import Cell, Grid, SearchSettings, TapSearch
from mmdiff.engine.tap_search import measure as measuring
from mmdiff.engine.tap_search.features import GridFeatures
from mmdiff.engine.tap_search.grid import set_point
from mmdiff.engine.tap_search.pages import notes
from mmdiff.engine.tap_search.results import SearchResults
from mmdiff.engine.tap_search.targets import LocationClasses, Targets
from mmdiff.models import DiffusionUNet

SOURCE = dict(
    type='UNet2DModel',
    block_out_channels=(4, 8),
    down_block_types=('DownBlock2D', 'DownBlock2D'),
    up_block_types=('UpBlock2D', 'UpBlock2D'),
    norm_num_groups=2,
    sample_size=16,
)
QUICK = SearchSettings(indices=24, held_out=8, eps=(4,), steps=2, batch_size=8)


@pytest.fixture(autouse=True)
def _quick(monkeypatch, request):
    """Heat maps take longer than tiny searches: one test draws."""
    if 'drawn' not in request.fixturenames:
        drawing = 'mmdiff.engine.tap_search.search.draw_heat_map'
        monkeypatch.setattr(drawing, lambda results, file: None)


@pytest.fixture
def drawn():
    """Heat maps are drawn."""


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """Two classes of noisy images of 16 px, dark and bright; 16 to train on of each."""
    root = tmp_path_factory.mktemp('classes')
    generator = np.random.default_rng(0)
    for split, count in (('train', 16), ('val', 2)):
        for name, level in (('dark', 90), ('bright', 130)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                noise = generator.integers(0, 36, (16, 16, 3))
                image = Image.fromarray((level + noise).astype(np.uint8))
                image.save(root / split / name / f'{split}{i}.png')
    return root


@pytest.fixture
def config(folders):
    """Config of a classifier on a tiny prior."""
    pytest.importorskip('mmpretrain')
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]

    def loader(split):
        where = dict(data_root=str(folders), data_prefix=split, pipeline=pipeline)
        dataset = dict(type='CustomDataset', serialize_data=False, **where)
        return dict(batch_size=4, dataset=dataset)

    model = dict(
        type='ImageClassifier',
        data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),
        backbone=dict(
            type='mmdiff.DiffusionUNet',
            model=copy.deepcopy(SOURCE),
            timestep=10,
            out_indices=('up.1',),
        ),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=2, in_channels=4),
    )
    return Config(
        dict(
            model=model,
            default_scope='mmpretrain',
            train_dataloader=loader('train'),
            val_dataloader=loader('val'),
            test_dataloader=loader('val'),
        )
    )


@pytest.fixture(scope='module')
def toy_root(tmp_path_factory):
    return make_toy_voc(tmp_path_factory.mktemp('data') / 'toy', 10, 1, size=64)


@pytest.fixture
def detector(toy_root):
    """Config of a detector on a tiny prior."""
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(64, 64), keep_ratio=True),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='PackDetInputs'),
    ]

    def loader(split):
        where = dict(
            data_root=f'{toy_root}/',
            data_prefix=dict(sub_data_root=''),
            ann_file=f'ImageSets/Main/{split}.txt',
            metainfo=dict(classes=CLASSES),
            pipeline=copy.deepcopy(pipeline),
        )
        dataset = dict(type='VOCDataset', serialize_data=False, **where)
        return dict(batch_size=2, dataset=dataset)

    return Config(
        dict(
            model=detector_config('faster-rcnn', 'diffusion'),
            default_scope='mmdet',
            train_dataloader=loader('train'),
            test_dataloader=loader('val'),
        )
    )


@pytest.fixture
def passes(monkeypatch):
    """Numbers of images of all passes of the network."""
    seen, compute = [], DiffusionUNet._compute

    def counting(self, x):
        seen.append(len(x))
        return compute(self, x)

    monkeypatch.setattr(DiffusionUNet, '_compute', counting)
    return seen


def report(folder):
    return json.loads((folder / 'search.json').read_text())


def test_where_noise_leaves_nothing_is_ranked_last(config, tmp_path, drawn):
    config.model.backbone.noise = 'fresh'  # a noise that stays could be learned
    search = TapSearch(config, tmp_path, QUICK, ['up.1', 'mid'], [10, 999])
    results = search.run()
    assert [cell.time for cell in (r.cell for r in results.ranked)] == [
        10,
        10,
        999,
        999,
    ]
    clean = {r.cell: r.clean.mean() for r in results.cells}
    assert clean[Cell(('up.1',), 10)] == 1 > clean[Cell(('up.1',), 999)]
    assert search.settings.eot == 4
    raw = report(tmp_path)
    assert raw['best'] == {
        'taps': [results.best.cell.name],
        'timestep': 10,
        'num_noise': 1,
    }
    assert raw['complete'] and raw['dataset']['fit'] == 16
    for cell in raw['cells']:
        (attacked,) = cell['attacked']
        assert attacked['value'] <= cell['clean']['value']
        low, high = attacked['interval']
        assert low <= attacked['value'] <= high and attacked['eps'] == 4
        assert cell['zero_gradients'] < cell['gradients']
    assert str(tmp_path) not in json.dumps(raw).replace(str(search.work_dir), '')
    page = (tmp_path / 'search.md').read_text()
    assert raw['config_lines'] in page and '| mid | 999 |' in page
    with Image.open(tmp_path / 'search.png') as picture:
        assert picture.width > picture.height > 50


def test_pgd_undoes_what_a_wide_budget_allows_and_smaller_budgets_do_less(
    config, tmp_path
):
    settings = SearchSettings(
        indices=24, held_out=8, eps=(60, 1), steps=4, batch_size=3
    )
    (result,) = TapSearch(config, tmp_path, settings, ['up.1'], [10]).run().cells
    assert list(result.attacked) == [1, 60]
    assert result.clean.mean() == 1 and result.attacked[60].mean() < 0.5
    assert (result.attacked[60] <= result.attacked[1]).all()


def test_a_second_call_runs_no_block(config, tmp_path, passes):
    first = TapSearch(config, tmp_path, QUICK, ['mid', 'up.1'], [10]).run()
    assert passes
    del passes[:]
    again = TapSearch(config, tmp_path, QUICK, ['mid', 'up.1'], [10]).run()
    assert passes == [] and again.to_json() == first.to_json()
    # A combination of these has its features: what runs is the attack alone.
    grid = ['mid', 'mid+up.1']
    both = TapSearch(config, tmp_path, QUICK, grid, [10]).run()
    attacked = QUICK.steps + 2  # the last objective, and the score
    assert len(passes) <= attacked and sum(passes) <= attacked * QUICK.held_out
    assert [r.channels for r in both.cells] == [8, 12]


def test_one_pass_gives_all_taps_of_a_time(config, tmp_path, monkeypatch):
    asked, compute = [], GridFeatures._compute

    def counting(self, x, taps, time, num_noise):
        asked.append((len(x), tuple(taps), time))
        return compute(self, x, taps, time, num_noise)

    monkeypatch.setattr(GridFeatures, '_compute', counting)
    grid = ['up.1+mid', 'up.0', 'mid']
    TapSearch(config, tmp_path, QUICK, grid, [0, 100]).run()
    taps = ('mid', 'up.1', 'up.0')
    assert asked == [(8, taps, time) for time in (0, 100) for _ in range(3)]


def test_a_search_that_was_stopped_goes_on_to_the_same_numbers(
    config, tmp_path, monkeypatch
):
    measure, cells = measuring.Bench.measure, []

    def stopping(self, cell, along):
        if len(cells) == 1:
            raise KeyboardInterrupt
        cells.append(cell)
        return measure(self, cell, along)

    grid = ['mid', 'up.0', 'up.1']
    with monkeypatch.context() as patch:
        patch.setattr(measuring.Bench, 'measure', stopping)
        with pytest.raises(KeyboardInterrupt):
            TapSearch(config, tmp_path / 'a', QUICK, grid, [10]).run()
    assert len(report(tmp_path / 'a')['cells']) == 1
    there = list((tmp_path / 'a' / 'cells').iterdir())
    stamps = [file.stat().st_mtime_ns for file in there]
    TapSearch(config, tmp_path / 'a', QUICK, grid, [10]).run()
    assert [file.stat().st_mtime_ns for file in there] == stamps
    TapSearch(config, tmp_path / 'b', QUICK, grid, [10]).run()
    reports = [report(tmp_path / name) for name in 'ab']
    for raw in reports:
        for cell in raw['cells']:
            del cell['seconds']
    assert reports[0] == reports[1] and len(reports[0]['cells']) == 3


def test_noise_that_a_batch_shares_is_attacked_as_fresh_noise_is(config, tmp_path):
    config.model.backbone.noise = 'shared'
    search = TapSearch(config, tmp_path, QUICK, ['mid'], [10])
    assert search.settings.eot == 4


def test_scores_that_are_all_0_have_an_interval():
    """All draws of them are alike. Clopper and Pearson: 1 - 0.025 ** (1 / 100)."""
    results = SearchResults({}, 'timestep', 'accuracy', (4,), [], [])
    assert results.measured(np.zeros(100)).interval == pytest.approx(
        (0, 0.0362), abs=1e-4
    )
    assert results.measured(np.ones(100)).interval == pytest.approx(
        (0.9638, 1), abs=1e-4
    )


def test_a_damaged_cell_is_measured_anew(config, tmp_path):
    first = TapSearch(config, tmp_path, QUICK, ['up.1'], [10]).run()
    (file,) = (tmp_path / 'cells').iterdir()
    file.write_text(file.read_text()[:50])
    again = TapSearch(config, tmp_path, QUICK, ['up.1'], [10]).run()
    assert again.best.score == first.best.score


@pytest.fixture
def slow(monkeypatch):
    """Every cell says that it took 100 seconds."""
    measure = measuring.Bench.measure

    def slower(self, cell, along):
        result = measure(self, cell, along)
        result.seconds = 100.0
        return result

    monkeypatch.setattr(measuring.Bench, 'measure', slower)


def test_no_cell_is_started_that_would_not_fit(config, tmp_path, slow, passes):
    ask = config, tmp_path, QUICK, ['mid', 'up.1'], [10], None
    results = TapSearch(*ask, minutes=1).run()
    assert [cell.name for cell in results.missing] == ['up.1']
    assert 'Not measured yet: up.1 at timestep 10;' in '\n'.join(notes(results))
    assert report(tmp_path)['missing'][0]['taps'] == ['up.1']
    del passes[:]
    with pytest.raises(ValueError, match='no time left for a single cell: 1 of 2'):
        TapSearch(*ask, minutes=1).run()
    assert passes == []
    assert not TapSearch(*ask, minutes=3).run().missing


def test_a_backbone_that_is_set_is_as_one_that_is_built_so():
    def build(**kwargs):
        torch.manual_seed(0)
        return DiffusionUNet(copy.deepcopy(SOURCE), **kwargs)

    x = torch.rand(2, 3, 16, 16) * 2 - 1
    backbone = build(timestep=10, num_noise=3)
    assert set_point(backbone, ['mid', 'up.1'], 50, 2) == ['up.1', 'mid']
    other = build(timestep=50, num_noise=2, out_indices=('mid', 'up.1'))
    for a, b in zip(backbone(x), other(x), strict=True):
        assert torch.equal(a, b)


def test_scores_on_disk_are_those_of_the_whole_model(detector, tmp_path):
    settings = SearchSettings(indices=8, held_out=3, eps=(8,), steps=1, batch_size=2)
    search = TapSearch(detector, tmp_path, settings, ['down.0+mid'], [10])
    bench = search._bench()
    cell = search.grid.cells[0]
    clean = bench.measure(cell, cell.taps).clean
    for part in bench.held_out:
        scores = bench._score(part, part.batch['inputs'], cell, 0)
        assert np.allclose(scores, clean[part.numbers], atol=1e-6)
    assert len(clean) == 3


def test_a_detector_is_probed_where_its_objects_are(detector, tmp_path):
    settings = SearchSettings(indices=9, held_out=4, eps=(8,), steps=3, batch_size=2)
    results = TapSearch(detector, tmp_path, settings, ['down.0'], [10]).run()
    (result,) = results.cells
    assert 0 < result.clean.mean() <= 1
    assert result.attacked[8].mean() < result.clean.mean()
    raw = report(tmp_path)
    assert raw['task'] == 'detection' and raw['dataset']['classes'] == list(CLASSES)
    assert 'neck=dict(in_channels=[4], in_strides=[2])' in raw['config_lines']


def test_the_gradient_of_a_location_probe_is_that_of_its_loss(detector, tmp_path):
    """Central differences through preprocessor, U-Net and probe."""
    settings = SearchSettings(indices=8, held_out=2, eps=(8,), steps=1, batch_size=2)
    search = TapSearch(detector, tmp_path, settings, ['down.0'], [10])
    bench = search._bench()
    bench.measure(search.grid.cells[0], ['down.0'])
    model = bench.model.double()
    (part,) = bench.held_out
    group = bench.oracle.gather(part.batch)

    def losses(pixels):
        batch = bench.oracle.preprocess(pixels, group.samples, group.frames)
        inputs = batch['inputs'].double()
        return model.image_losses(inputs, batch['data_samples'])

    pixels = [x.double().requires_grad_() for x in group.pixels]
    grads = torch.autograd.grad(losses(pixels).sum(), pixels)
    ways = [grad.sign() for grad in grads]
    step = 0.1  # pixel values; the preprocessor rounds to float32
    ahead = losses([x.detach() + step * v for x, v in zip(pixels, ways)])
    behind = losses([x.detach() - step * v for x, v in zip(pixels, ways)])
    for i, (grad, way) in enumerate(zip(grads, ways)):
        expected = (ahead[i] - behind[i]) / (2 * step)
        assert torch.isclose((grad * way).sum(), expected, rtol=1e-2)


def sample_of(boxes, labels, shape=(32, 32), ignored=()):
    sample = DetDataSample(metainfo=dict(img_shape=shape, ori_shape=shape))
    truth = torch.tensor(boxes).reshape(-1, 4).float()
    sample.gt_instances = InstanceData(bboxes=truth, labels=torch.tensor(labels))
    others = torch.tensor(ignored).reshape(-1, 4).float()
    sample.ignored_instances = InstanceData(bboxes=others)
    return sample


def test_locations_are_of_the_smallest_box_and_padding_counts_nothing():
    # A canvas of 4 x 6 locations, of which the image has 4 x 4.
    sample = sample_of(
        [[0, 0, 32, 16], [0, 0, 16, 8], [17, 25, 19, 27]],
        [0, 1, 2],
        ignored=[[0, 16, 32, 24]],
    )
    targets = LocationClasses(3, 8).targets([sample], (32, 48))
    labels = targets.labels.view(4, 6)
    weights = targets.weights.view(4, 6)
    assert labels[:, :4].tolist() == [[1, 1, 0, 0], [0] * 4, [3] * 4, [3, 3, 2, 3]]
    assert weights[:, 4:].sum() == 0 and weights[2].sum() == 0
    # Half to three objects alike, half to what is left of the background.
    each = [float(weights[labels == k].sum()) for k in range(4)]
    assert each == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])
    empty = LocationClasses(3, 8).targets([sample_of([], [])], (32, 32))
    assert empty.weights.sum() == pytest.approx(1) and (empty.labels == 3).all()


def test_the_score_is_a_jaccard_index():
    labels = torch.tensor([[0, 1, 2, 2], [2, 2, 2, 2]])
    weights = torch.full((2, 4), 0.25)
    targets = Targets(labels, weights, background=2)

    def scores(*told):
        logits = torch.nn.functional.one_hot(torch.tensor(told), 3).float()
        return targets.scores(logits.transpose(1, 2)).tolist()

    assert scores([0, 1, 2, 2], [2, 2, 2, 2]) == [1, 1]
    assert scores([2, 2, 2, 2], [0, 2, 2, 2]) == [0, 0.75]  # seeing nothing is worth 0
    assert scores([0, 0, 0, 2], [0, 0, 0, 0]) == pytest.approx([1 / 3, 0])


def test_times_of_edm_are_sigmas():
    source = dict(
        type='EDMPrecond',
        img_resolution=16,
        img_channels=3,
        model_type='SongUNet',
        model_channels=8,
        num_blocks=1,
    )
    model = DiffusionModel.from_pretrained(source)
    assert Grid.of(model).times[0] == 0.02
    grid = Grid.of(model, ['mid', '-1'], ['0.5', '0.1'], [2, 1])
    assert grid.times == (0.1, 0.5) and grid.num_noise == (1, 2)
    assert len(grid.cells) == 8 and grid.cells[0].taps == ('mid',)
    with pytest.raises(ValueError, match='sigma=0.0 is out of range'):
        Grid.of(model, times=['0'])


def test_images_that_are_evaluated_on_are_left_out(config, tmp_path):
    config.val_dataloader.dataset.data_prefix = 'train/dark'
    config.val_dataloader.dataset.with_label = False
    search = TapSearch(config, tmp_path, QUICK, ['mid'], [10])
    assert search.images.left_out == 16
    names = [search.images.dataset.get_data_info(i) for i in search.images.fit]
    assert all('bright' in info['img_path'] for info in names)
    assert not set(search.images.fit) & set(search.images.held_out)
    with pytest.raises(ValueError, match='show one class only'):
        search.run()


def refuse(cfg, folder, words, settings=QUICK, taps=('mid',), times=(10,), **kwargs):
    with pytest.raises(ValueError, match=words):
        TapSearch(cfg, folder, settings, taps, times, **kwargs).run()
    assert not (folder / 'cells').exists()


@pytest.mark.parametrize(
    'kwargs, words',
    [
        ({'taps': ['up.7']}, 'no tap .up.7.; .*: down.0.0, '),
        ({'taps': ['mid+mid']}, 'names a tap twice'),
        ({'times': [1000]}, 'timestep=1000 is out of range; .*0 .* to 999'),
        ({'times': ['0.5']}, 'no whole number'),
        ({'times': ['x']}, '--times x is no number; give timesteps, 0 to 999'),
        ({'num_noise': [0, 1]}, 'num_noise=0 must be at least 1'),
        ({'minutes': 0}, 'minutes=0 has no time left for any cell'),
        ({'settings': SearchSettings(indices=3, held_out=2)}, 'leave two images'),
    ],
    ids=str,
)
def test_a_grid_that_cannot_be_searched_is_refused(config, tmp_path, kwargs, words):
    refuse(config, tmp_path, words, **kwargs)


def test_configs_that_cannot_be_searched_are_refused(config, detector, tmp_path):
    trained = copy.deepcopy(config)
    trained.model.backbone.frozen = False
    refuse(trained, tmp_path, 'frozen=True')
    other = copy.deepcopy(config)
    other.model.backbone = dict(type='ResNet', depth=18)
    refuse(other, tmp_path, "is ResNet, .* give type='mmdiff.DiffusionUNet'")
    unlabelled = copy.deepcopy(config)
    for loader in (unlabelled.train_dataloader, unlabelled.val_dataloader):
        loader.dataset.with_label = False
    unlabelled.test_dataloader = unlabelled.val_dataloader
    unlabelled.train_dataloader.dataset.metainfo = dict(classes=('dark', 'bright'))
    refuse(unlabelled, tmp_path, 'needs one true class for each image')
    unnamed = copy.deepcopy(unlabelled)
    del unnamed.train_dataloader.dataset.metainfo
    refuse(unnamed, tmp_path, 'does not name its classes')
    boxless = copy.deepcopy(detector)
    del boxless.test_dataloader.dataset.pipeline[2]
    refuse(boxless, tmp_path, 'no boxes with classes; add LoadAnnotations')
    untrained = copy.deepcopy(config)
    untrained.pop('train_dataloader')
    refuse(untrained, tmp_path, 'no train_dataloader')


def test_a_work_dir_of_another_search_is_kept_unless_it_is_to_go(config, tmp_path):
    TapSearch(config, tmp_path, QUICK, ['mid'], [10]).run()
    other = SearchSettings(indices=20, held_out=8, eps=(4,), steps=2, batch_size=8)
    with pytest.raises(ValueError, match='holds another search .* --fresh'):
        TapSearch(config, tmp_path, other, ['mid'], [10])
    (kept,) = (tmp_path / 'cells').iterdir()
    TapSearch(config, tmp_path, other, ['mid'], [10], fresh=True).run()
    assert not kept.exists() and report(tmp_path)['dataset']['fit'] == 12


@pytest.mark.parametrize('eps', [(), (0,), (2, -1), (300,), (float('nan'),)])
def test_budgets_out_of_range_are_refused(eps):
    with pytest.raises(ValueError, match='budgets above 0'):
        SearchSettings(eps=eps)
