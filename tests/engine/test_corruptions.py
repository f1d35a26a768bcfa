"""P, mPC and rPC, on a metric that sees the images."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import detector_config
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import VOCDataset
from mmdet.models import FCOS
from mmengine.config import Config
from mmengine.dataset import ConcatDataset
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS, MODELS
from mmengine.runner import Runner

from mmdiff import PGD
from mmdiff.datasets import Corrupt
from mmdiff.datasets.toy_shapes import CLASSES, make_toy_voc
from mmdiff.engine.corruptions import Summary, evaluate_corruptions, with_corruption
from mmdiff.evaluation.row_tables import RowTables
from mmdiff.evaluation.uncertainty import Bootstrap

TOOL = Path(__file__).parents[2] / 'tools' / 'test_corruptions.py'
METRIC = 'spread/mAP'


@METRICS.register_module(force=True)
class Spread(BaseMetric):
    """Mean standard deviation of the images that the model was given."""

    default_prefix = 'spread'

    def process(self, data_batch, data_samples):
        self.results += [x.float().std().item() for x in data_batch['inputs']]

    def compute_metrics(self, results):
        return dict(images=len(results), mAP=float(np.mean(results)))


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    return make_toy_voc(tmp_path_factory.mktemp('data') / 'toy', 1, 3, size=64)


@pytest.fixture
def config(toy, tmp_path):
    """A file, as the tool takes it, and its weights."""
    model = detector_config('fcos', 'resnet')
    model.bbox_head.num_classes = len(CLASSES)
    model.test_cfg.score_thr = 0.99  # boxes do not matter here
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(64, 64)),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(
            type='PackDetInputs', meta_keys=('ori_shape', 'img_shape', 'scale_factor')
        ),
    ]
    data = dict(
        type='VOCDataset',
        data_root=str(toy),
        ann_file='ImageSets/Main/val.txt',
        data_prefix=dict(sub_data_root=''),
        metainfo=dict(classes=CLASSES),
        test_mode=True,
        pipeline=pipeline,
    )
    sampler = dict(type='DefaultSampler', shuffle=False)
    loader = dict(batch_size=2, num_workers=0, sampler=sampler, dataset=data)
    cfg = Config(
        dict(
            model=model,
            custom_imports=dict(imports=['mmdiff'], allow_failed_imports=False),
            default_scope='mmdet',
            work_dir=str(tmp_path / 'work'),
            load_from=str(tmp_path / 'weights.pth'),
            test_dataloader=loader,
            test_cfg=dict(type='TestLoop'),
            test_evaluator=dict(type='Spread'),
            visualizer=dict(type='DetLocalVisualizer', vis_backends=[]),
            log_level='WARNING',
        )
    )
    cfg.dump(tmp_path / 'config.py')
    return cfg


@pytest.fixture
def make(config, tmp_path):
    def build(seed=0):
        config.randomness = dict(seed=seed)
        runner = Runner.from_cfg(config)
        torch.save(dict(state_dict=runner.model.state_dict()), config.load_from)
        return runner

    return build


def values(report):
    return [
        (row['corruption'], row['severity'], row['metrics'])
        for row in report['results']
    ]


def test_figures_are_those_of_corrupted_images(make, toy, tmp_path):
    out = tmp_path / 'sub' / 'out.json'
    report = evaluate_corruptions(make(), ['contrast'], [5, 1], out)
    assert json.loads(out.read_text()) == report
    expected = {}
    for severity in (0, 1, 5):
        spreads = []
        for path in sorted((toy / 'JPEGImages').glob('val*')):
            results = dict(img=cv2.imread(str(path)), img_id=path.stem)
            if severity:
                results = Corrupt('contrast', severity)(results)
            spreads.append(torch.from_numpy(results['img']).float().std().item())
        expected[severity] = np.mean(spreads)
    assert report['P'] == pytest.approx(expected[0])
    assert report['mPC'] == pytest.approx((expected[1] + expected[5]) / 2)
    assert report['rPC'] == pytest.approx(report['mPC'] / report['P'])
    assert [row['images'] for row in report['results']] == [3] * 3
    assert report['rPC'] < 0.9


@MODELS.register_module(force=True)
class Seer(FCOS):
    """Finds all objects of an image with enough contrast, and none of another one."""

    def predict(self, batch_inputs, batch_data_samples, rescale=True):
        for image, sample in zip(batch_inputs, batch_data_samples):
            truth = sample.gt_instances
            found = truth[: len(truth) if image.std() > 38 else 0]
            found.scores = torch.linspace(1, 0.5, len(found))
            sample.pred_instances = found
        return batch_data_samples


def test_intervals_are_those_of_draws_of_the_images(make, config, tmp_path):
    config.model.type, config.test_evaluator = 'Seer', dict(type='VOCMetric')
    runner, out = make(), tmp_path / 'out.json'
    report = evaluate_corruptions(runner, ['contrast'], [1, 3], out)
    found = [row['metrics']['pascal_voc/mAP'] for row in report['results']]
    assert found[0] == 1 and found[1] == pytest.approx(found[2]) and 0 < found[1] < 1
    ends = report['intervals']
    assert not ends['problem'] and ends['P'] == (1, 1)
    low, high = report['results'][1]['interval']
    assert low < found[1] < high <= 1
    # Both corruptions hide the same image, so each draw has one value of all three.
    tables = RowTables.load(tmp_path / 'out.tables.npz').rows
    draws = Bootstrap().values(tables['contrast 1'], 3)
    assert ends['mPC'] == pytest.approx([low, high])
    assert ends['rPC'] == pytest.approx(np.percentile(draws, [2.5, 97.5]))
    # Tests of which tables are lost are run again, and no others.
    calls, test = [], runner.test
    runner.test = lambda: calls.append(1) or test()
    assert evaluate_corruptions(runner, ['contrast'], [1, 3], out) == report
    assert not calls
    (tmp_path / 'out.tables.npz').write_bytes(b'torn')
    again = evaluate_corruptions(runner, ['contrast'], [1, 3], out)
    assert len(calls) == 3 and again['intervals'] == ends
    # So are those of which the table is another test's.
    tables = RowTables.load(tmp_path / 'out.tables.npz')
    tables.rows['contrast 1'] = tables.rows['clean 0']
    tables.save(tmp_path / 'out.tables.npz')
    evaluate_corruptions(runner, ['contrast'], [1, 3], out)
    assert len(calls) == 4


def test_what_no_interval_can_be_made_of_has_a_reason(make, tmp_path):
    report = evaluate_corruptions(make(), ['contrast'], [1], tmp_path / 'out.json')
    assert report['intervals']['problem'].startswith('RobustTestLoop compares the mAP')
    assert report['intervals']['mPC'] is report['results'][0]['interval'] is None


@METRICS.register_module(force=True)
class Listed(Spread):
    """Knows images by a file of its own, as COCO's metric does."""

    _coco_api, img_ids = 'a file of many', None

    def compute_metrics(self, results):
        return dict(listed=len(self.img_ids), mAP=0.5)


def test_a_metric_with_a_file_counts_the_tested_images_only(make, config, tmp_path):
    config.test_evaluator.type = 'Listed'
    config.test_dataloader.dataset.indices = 2
    report = evaluate_corruptions(make(), ['fog'], [1], tmp_path / 'out.json')
    assert [row['metrics']['spread/listed'] for row in report['results']] == [2, 2]


def test_a_pipeline_of_classes_is_corrupted_after_the_image_is_loaded():
    steps = [dict(type=LoadImageFromFile), dict(type='PackDetInputs')]
    corrupted = with_corruption(dict(type=VOCDataset, pipeline=steps), 'fog', 2)
    kinds = [step['type'] for step in corrupted['pipeline']]
    assert kinds == [LoadImageFromFile, 'mmdiff.Corrupt', 'PackDetInputs']
    with pytest.raises(ValueError, match='^mmengine.*ConcatDataset has no LoadImage'):
        with_corruption(dict(type=ConcatDataset), 'fog', 1)


def test_means_are_over_the_plan_and_none_where_not_all_is_known():
    def row(corruption, severity, value):
        metrics = {'a/recall': 9, 'a/mAP': value}
        return dict(corruption=corruption, severity=severity, metrics=metrics)

    plan = [('fog', 1), ('fog', 2), ('snow', 1), ('snow', 2)]
    rows = [row('clean', 0, 0.5), *(row(*p, v) for p, v in zip(plan, (3, 2, 1, 4)))]
    rows.append(row('frost', 1, 100))  # of another plan
    assert Summary.of(rows, plan) == Summary(P=0.5, mPC=2.5, rPC=5)
    assert Summary.of(rows[:4], plan) == Summary(P=0.5, mPC=None, rPC=None)
    assert Summary.of([row('clean', 0, 0), *rows[1:]], plan).rPC is None


def test_a_run_killed_and_started_again_repeats_nothing(make, tmp_path):
    plan = ['gaussian_noise'], [1, 5]
    whole = evaluate_corruptions(make(), *plan, tmp_path / 'a.json')
    runner, out, calls = make(), tmp_path / 'b.json', []
    test = runner.test

    def killed():
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return test()

    runner.test = killed
    with pytest.raises(KeyboardInterrupt):
        evaluate_corruptions(runner, *plan, out)
    report = json.loads(out.read_text())
    assert len(report['results']) == 2 and report['mPC'] is None
    calls.clear()
    runner.test = lambda: calls.append(1) or test()
    resumed = evaluate_corruptions(runner, *plan, out)
    assert len(calls) == 1 and values(resumed) == values(whole)
    # A part of it is read off; nothing is tested.
    part = evaluate_corruptions(runner, ['gaussian_noise'], [5], out)
    assert len(calls) == 1 and part['mPC'] == whole['results'][2]['metrics'][METRIC]
    evaluate_corruptions(runner, ['gaussian_noise'], [5], out, fresh=True)
    assert len(calls) == 3


def test_mistakes_are_one_sentence(make, config, tmp_path):
    out = tmp_path / 'out.json'
    evaluate_corruptions(make(), ['contrast'], [1], out)
    with pytest.raises(ValueError, match='of another model, other weights'):
        evaluate_corruptions(make(seed=1), ['contrast'], [1], out)
    runner = make()
    runner.register_hook(dict(type='mmdiff.AttackHook', attack=PGD()))
    with pytest.raises(ValueError, match='without AttackHook'):
        evaluate_corruptions(runner, ['contrast'], [1], out, fresh=True)
    runner = make()
    Path(config.load_from).unlink()
    with pytest.raises(FileNotFoundError, match='There is no checkpoint'):
        evaluate_corruptions(runner, ['contrast'], [1], out)
    with pytest.raises(ValueError, match='no LoadImageFromFile in its own pipeline'):
        with_corruption(dict(type='ConcatDataset'), 'fog', 1)


def test_images_that_were_replaced_under_their_names_are_no_others_results(
    make, config, tmp_path, toy
):
    images = tmp_path / 'replaced'
    shutil.copytree(toy, images)
    config.test_dataloader.dataset.data_root = str(images)
    out = tmp_path / 'out.json'
    evaluate_corruptions(make(), ['contrast'], [1], out)
    first, second, *_ = sorted((images / 'JPEGImages').glob('val*'))
    shutil.copy(second, first)
    with pytest.raises(ValueError, match='other weights or other images; start fresh'):
        evaluate_corruptions(make(), ['contrast'], [1], out)


def test_a_wrapped_set_is_refused_before_clean_images_are_tested(
    make, config, tmp_path
):
    make()
    inner = config.test_dataloader.dataset
    config.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[inner])
    runner = Runner.from_cfg(config)
    runner.test = lambda: pytest.fail('it was tested')
    with pytest.raises(ValueError, match='test one dataset, without wrappers'):
        evaluate_corruptions(runner, ['contrast'], [1], tmp_path / 'out.json')


@pytest.mark.parametrize('robust', [False, True])
def test_the_tool_keeps_the_settings_of_the_test_loop(
    make, config, tmp_path, monkeypatch, robust
):
    """In half precision a detector gives other numbers: they are no others' results."""
    make()
    more = dict(type='mmdiff.RobustTestLoop', attacks=[], indices=1) if robust else {}
    config.test_cfg = dict(fp16=True, **more)
    config.dump(tmp_path / 'half.py')
    tool, seen = runpy.run_path(str(TOOL)), []

    def evaluate(runner, *args):
        loop = runner.test_loop
        seen.append((loop.fp16, len(loop.dataloader.dataset)))
        report = evaluate_corruptions(runner, [], [], tmp_path / 'half.json')
        seen.append(report['fingerprint'])
        raise ValueError('seen')  # there is no table of nothing

    monkeypatch.setitem(
        tool['test_corruptions'].__globals__, 'evaluate_corruptions', evaluate
    )
    line = [str(TOOL), str(tmp_path / 'half.py'), config.load_from]
    monkeypatch.setattr(sys, 'argv', line)
    with pytest.raises(SystemExit, match='seen'):
        tool['main']()
    assert seen[0] == (True, 1 if robust else 3)
    config.test_cfg = dict(type='TestLoop')
    if robust:
        config.test_dataloader.dataset.indices = 1
    plain = evaluate_corruptions(make(), [], [], tmp_path / 'plain.json')
    assert plain['fingerprint'] != seen[1]


def test_the_tool_writes_the_report_and_shows_its_table(
    make, config, tmp_path, monkeypatch, capsys
):
    make()
    line = [str(TOOL), str(tmp_path / 'config.py'), config.load_from, '--indices', '2']
    line += ['--work-dir', str(tmp_path / 'cli'), '--severities', '1', '5']
    tool = runpy.run_path(str(TOOL))
    monkeypatch.setattr(sys, 'argv', [*line, '--corruptions', 'contrast'])
    tool['main']()
    report = json.loads((tmp_path / 'cli' / 'corruptions.json').read_text())
    assert report['results'][0]['images'] == 2
    shown = capsys.readouterr().out
    assert f'P {report["P"]:.3f}, mPC {report["mPC"]:.3f}, rPC' in shown
    assert f'{report["results"][2]["metrics"][METRIC]:.3f}' in shown
    monkeypatch.setattr(sys, 'argv', [*line, '--corruptions', 'rain'])
    with pytest.raises(SystemExit, match="test_corruptions.py: corruption='rain' is"):
        tool['main']()
