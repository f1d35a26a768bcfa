"""The loop on a tiny detector that knows its four test images by heart."""

import copy
import json
import re
import shutil
from multiprocessing.dummy import Pool as ThreadPool
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import detector_config
from mmcv.transforms import BaseTransform
from mmdet.datasets import VOCDataset
from mmdet.evaluation import VOCMetric
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import METRICS, TRANSFORMS
from mmengine.runner import Runner

from mmdiff import DAG, PGD  # noqa: F401 (registered)
from mmdiff.attacks import APGD, NotApplicable, RandomNoise  # noqa: F401 (registered)
from mmdiff.attacks.oracle.ground_truth import to_input_scale
from mmdiff.attacks.probes import Probes
from mmdiff.datasets.toy_shapes import CLASSES, make_toy_voc
from mmdiff.engine.loops import cached_runs
from mmdiff.evaluation.entry import main_metric
from mmdiff.evaluation.report import build_page, read_reports
from mmdiff.evaluation.row_tables import RowTables
from mmdiff.evaluation.tables import results_table
from mmdiff.registry import ATTACKS

VOC = dict(type='VOCMetric', metric='mAP', eval_mode='area')
PGD4 = dict(type='mmdiff.PGD', eps=4, steps=3)


@pytest.fixture(autouse=True)
def _quick(monkeypatch, request):
    """VOCMetric forks four processes for four images, and probes cost more than runs.

    Tests that are about probes, or about all that a run does, ask for ``probed``.
    """
    monkeypatch.setattr('mmdet.evaluation.functional.mean_ap.Pool', ThreadPool)
    if 'probed' not in request.fixturenames:
        asked = 'mmdiff.engine.loops.robust_test_loop.ask_once'
        monkeypatch.setattr(asked, lambda runs, oracle, steps: Probes())


@pytest.fixture
def probed(monkeypatch):
    """Probes are on, and of one image."""
    monkeypatch.setattr('mmdiff.engine.loops.probing.NUM_IMAGES', 1)


@pytest.fixture(scope='session')
def toy_root(tmp_path_factory):
    return make_toy_voc(tmp_path_factory.mktemp('data') / 'toy', 1, 4, size=64)


def make_runner(
    toy_root, work_dir, test_cfg, evaluator=VOC, weights=None, wrap=None, **dataset
):
    """A Runner on images that are resized, so that file and input scales differ."""
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    data = dict(
        type='VOCDataset',
        data_root=str(toy_root),
        ann_file='ImageSets/Main/val.txt',
        data_prefix=dict(sub_data_root=''),
        metainfo=dict(classes=CLASSES),
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(96, 96), keep_ratio=True),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='PackDetInputs', meta_keys=keys),
        ],
    )
    data.update(dataset)
    data = data if wrap is None else wrap(data)
    model = detector_config('fcos', 'resnet')
    model.bbox_head.num_classes = len(CLASSES)
    cfg = dict(
        model=model,
        work_dir=str(work_dir),
        default_scope='mmdet',
        load_from=weights and str(weights),
        test_dataloader=dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=data,
        ),
        test_cfg=test_cfg,
        test_evaluator=evaluator,
        visualizer=dict(type='DetLocalVisualizer', vis_backends=[]),
        log_level='WARNING',
        randomness=dict(seed=0),
        experiment_name=work_dir.name,
    )
    return Runner.from_cfg(Config(cfg))


TRAINED = []  # once for all modules that use it


@pytest.fixture(scope='session')
def weights(toy_root, tmp_path_factory):
    """Of a detector that finds everything on the four images, after seconds."""
    if TRAINED:
        return TRAINED[0]
    runner = make_runner(toy_root, tmp_path_factory.mktemp('train'), dict())
    model, dataset = runner.model, runner.test_dataloader.dataset
    torch.manual_seed(0)
    model.init_weights()
    batch = pseudo_collate([dataset[i] for i in range(4)])
    samples = [to_input_scale(s, 'original') for s in batch['data_samples']]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(120):
        data = dict(batch, data_samples=copy.deepcopy(samples))
        data = model.data_preprocessor(data, training=True)
        loss, _ = model.parse_losses(model(**data, mode='loss'))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    path = Path(runner.work_dir) / 'detector.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    TRAINED.append(path)
    return path


@pytest.fixture
def robust(toy_root, weights, tmp_path):
    """``robust(attacks, **settings)``: a runner whose loop is to run."""

    def make(attacks, work='work', through=None, evaluator=VOC, data=(), **settings):
        base = dict(type='mmdiff.RobustTestLoop', sanity_images=2, num_gallery=0)
        cfg = dict(base, attacks=attacks, **settings)
        runner = make_runner(
            toy_root, tmp_path / work, cfg, evaluator, weights, **dict(data)
        )
        if through is not None:
            forward = runner.model.backbone.forward
            runner.model.backbone.forward = lambda x: through(forward, x)
        return runner

    return make


def run(runner):
    """The report, as read from its file."""
    runner.test()
    return json.loads(runner.test_loop.out.read_text())


def same(report):
    """What must not depend on interruptions, ranks and clocks."""
    report = copy.deepcopy(report)
    for entry in report['results']:
        for name in ('seconds', 'peak_mem'):
            del entry['cost'][name]
    return report


def plain_metrics(toy_root, weights, tmp_path, evaluator, attack=None):
    runner = make_runner(toy_root, tmp_path / 'plain', dict(), evaluator, weights)
    if attack is not None:
        runner.register_hook(dict(type='mmdiff.AttackHook', attack=attack))
    return runner.test()


def coco_evaluator(runner, path):
    """The test set as COCO annotations, and the metric on them."""
    dataset = runner.test_dataloader.dataset
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    boxes = [
        dict(image_id=info['img_id'], category_id=o['bbox_label'], bbox=o['bbox'])
        for info in infos
        for o in info['instances']
    ]
    for number, box in enumerate(boxes):
        x1, y1, x2, y2 = box['bbox']
        size = x2 - x1, y2 - y1
        box.update(id=number + 1, bbox=[x1, y1, *size], area=size[0] * size[1])
        box.update(iscrowd=0)
    images = [dict(id=i['img_id'], height=64, width=64) for i in infos]
    names = [dict(id=k, name=name) for k, name in enumerate(CLASSES)]
    annotations = dict(images=images, annotations=boxes, categories=names)
    path.write_text(json.dumps(annotations))
    return dict(type='CocoMetric', metric='bbox', ann_file=str(path))


def check_probed(report, entries, keys):
    """The model was asked, and what attacks handed on."""
    probes = report['sanity']['probes']
    objectives = probes['objectives']
    assert [probe['objective'] for probe in objectives] == ['total', 'cls']
    assert objectives[0]['best_agreement'] > 0.97 and probes['model']['images'] == 1
    for key in keys:
        found = entries[key]['sanity']
        assert (found['asked_again'], found['misreported']) == (4, 0)


def test_a_healthy_run(robust, toy_root, weights, tmp_path, probed):
    attacks = [
        dict(type='mmdiff.PGD', eps=[2, 8], steps=5),
        dict(type='mmdiff.PGD', eps=8, steps=5, objective='cls'),
        dict(type='mmdiff.RandomNoise', eps=8),
    ]
    runner = robust(attacks, num_gallery=1, sanity_images=3, name='tiny')
    metrics = runner.test()
    report = json.loads((tmp_path / 'work' / 'robustness.json').read_text())
    assert not report['unreliable'] and report['reasons'] == [] and report['complete']
    assert report['protocol'] == 'adaptive'
    keys = [entry['key'] for entry in report['results']]
    assert keys == [
        'clean',
        'pgd_total_eps2',
        'pgd_total_eps8',
        'pgd_cls_eps8',
        'random_noise_eps8',
        'worst_case_eps8',
    ]
    entries = dict(zip(keys, report['results']))
    for key, entry in entries.items():
        assert metrics[f'{key}/pascal_voc/mAP'] == main_metric(entry['metrics'])
        classes = np.mean(list(entry['per_class'].values()))
        assert classes == pytest.approx(main_metric(entry['metrics']), abs=1e-6)
        assert entry['num_images'] == 4
    # mmengine's own loop and the hook measure the same.
    strong = dict(type='mmdiff.PGD', eps=8, steps=5)
    for key, attack in (('clean', None), ('pgd_total_eps8', strong)):
        plain = plain_metrics(toy_root, weights, tmp_path, VOC, attack)
        assert entries[key]['metrics'] == pytest.approx(plain, abs=1e-9)
    assert main_metric(entries['clean']['metrics']) == 1
    assert main_metric(entries['pgd_total_eps8']['metrics']) < 0.6
    attacked = [entries[k]['image_score'] for k in keys[2:4]]
    assert entries['worst_case_eps8']['image_score'] <= min(attacked)
    assert entries['random_noise_eps8']['role'] == 'control'
    sanity = report['sanity']
    # Three images are two batches of two.
    assert sanity['images'] == 4 and sanity['attack'] == 'pgd_total at eps=8'
    assert sanity['large'] < 0.1 and sanity['random_noise'] > 0.9
    assert sanity['objective'] > sanity['square_objective']
    # Every row has its interval, and the worst case says what it is made of.
    assert report['intervals']['problem'] == '' and len(report['image_ids']) == 4
    for entry in report['results']:
        low, high = entry['interval']
        assert 0 <= low <= high <= 1 and len(entry['image_scores']) == 4
        assert entry['broke']['objects'] == report['results'][0]['broke']['objects']
    worst = entries['worst_case_eps8']
    assert worst['chosen_by'] == 'metric' and set(worst['chosen']) <= set(keys)
    assert main_metric(worst['metrics']) <= main_metric(
        entries['pgd_total_eps8']['metrics']
    )
    tables = RowTables.load(tmp_path / 'work' / report['intervals']['tables'])
    assert set(tables.rows) == set(keys)
    # The page takes it as it is.
    (model,) = read_reports([tmp_path / 'work' / 'robustness.json'])
    assert build_page([model]).models[0].gallery[0].png
    assert [e.role for e in model.entries][-2:] == ['control', 'worst_case']
    assert report['cost']['trainable_params'] > 1000
    assert report['cost']['train_seconds'] is None  # the file has bare weights
    check_probed(report, entries, keys[1:4])


def test_coco_metric_is_mmengines(robust, toy_root, weights, tmp_path):
    runner = make_runner(toy_root, tmp_path, dict())
    evaluator = coco_evaluator(runner, tmp_path / 'coco.json')
    report = run(robust([PGD4], evaluator=evaluator))
    plain = plain_metrics(toy_root, weights, tmp_path, evaluator, PGD4)
    assert plain['coco/bbox_mAP'] > 0
    assert report['results'][1]['metrics'] == pytest.approx(plain)


def test_coco_metric_counts_the_tested_images_only(robust, toy_root, tmp_path):
    found = []
    for count in (4, 2):  # images that the annotations know; two are tested
        runner = make_runner(toy_root, tmp_path, dict(), indices=count)
        evaluator = coco_evaluator(runner, tmp_path / f'{count}.json')
        data = dict(indices=2)
        runner = robust([PGD4], f'work{count}', evaluator=evaluator, data=data)
        found.append([entry['metrics'] for entry in run(runner)['results']])
    assert found[0] == found[1] and found[0][0]['coco/bbox_mAP'] > 0.5


class OwnVOC(VOCMetric):
    """Counts in a way that nobody else knows."""


def test_a_metric_of_ones_own_has_no_intervals_and_everyone_says_so(robust, tmp_path):
    METRICS.register_module(module=OwnVOC, force=True)
    evaluator = dict(VOC, type='OwnVOC')
    attacks = [PGD4, dict(PGD4, objective='cls')]
    report = run(robust(attacks, evaluator=evaluator))
    problem = 'pascal_voc/mAP is counted by the evaluator alone'
    assert report['intervals']['problem'].startswith(problem)
    assert any(problem in log.read_text() for log in tmp_path.rglob('*.log'))
    assert not report['intervals']['tables']
    assert all('interval' not in row for row in report['results'])
    assert report['results'][-1]['chosen_by'] == 'score'


class Half(RandomNoise):
    """Marks its images: no pixel value is whole."""

    def perturb(self, oracle, group, stats):
        marked = [(x - 0.5).abs() for x in group.pixels]
        return marked, [np.nan] * len(marked)


def test_a_larger_canvas_than_the_attacks_is_told(robust):
    """One image is smaller than the other of its batch."""
    runner = robust([PGD4])
    dataset, told = runner.test_loop.images.dataset, []
    load = dataset.prepare_data

    def cropped(i):
        item = load(i)
        if i == 3:
            item['inputs'] = item['inputs'][:, :64]
            meta = dict(img_shape=(64, 96), ori_shape=(43, 64))  # times 1.5
            item['data_samples'].set_metainfo(meta)
        return item

    dataset.prepare_data = cropped
    runner.logger.warning = told.append
    report = run(runner)
    assert report['sanity']['larger_canvas'] == 1
    assert any('1 of 4 images pad to less than their batch' in line for line in told)
    assert run(robust([PGD4], 'other'))['sanity']['larger_canvas'] == 0


def test_no_detection_at_all_is_zero(robust, toy_root, tmp_path):
    """COCO's metric has no figure then."""
    runner = make_runner(toy_root, tmp_path, dict())
    evaluator = coco_evaluator(runner, tmp_path / 'coco.json')
    runner = robust([dict(type='mmdiff.Half', eps=4)], evaluator=evaluator)
    step = runner.model.test_step

    def only_clean(batch):
        found = step(batch)
        for sample in found:
            kept = slice(0 if (batch['inputs'][0] % 1).any() else None)
            sample.pred_instances = sample.pred_instances[kept]
        return found

    runner.model.test_step = only_clean
    clean, attacked = (entry['metrics'] for entry in run(runner)['results'])
    assert clean['coco/bbox_mAP'] > 0
    assert attacked == dict.fromkeys(clean, 0)


class Counted(PGD):
    """Counts images, and stops the run when told."""

    images, limit = 0, 10**9

    def perturb(self, oracle, group, stats):
        if self.steps > 1:  # not the first check
            if Counted.images + len(group.ids) > Counted.limit:
                raise KeyboardInterrupt
            Counted.images += len(group.ids)
        return super().perturb(oracle, group, stats)


for planted in (Half, Counted):
    ATTACKS.register_module(module=planted, force=True)


@pytest.fixture
def counted():
    Counted.images, Counted.limit = 0, 10**9
    return Counted


def test_interrupted_and_resumed_is_uninterrupted(robust, counted, tmp_path, probed):
    attacks = [dict(type='mmdiff.Counted', eps=[2, 4], steps=2, restarts=2)]
    whole = run(robust(attacks, 'whole'))
    images, counted.images = counted.images, 0
    # 2 budgets, 2 restarts, 4 images; two controls on 2 images each.
    assert images == 20
    counted.limit = 10
    with pytest.raises(KeyboardInterrupt):
        run(robust(attacks))
    part = json.loads((tmp_path / 'work' / 'robustness.json').read_text())
    assert not part['complete']
    keys = [entry['key'] for entry in whole['results']]
    assert [entry['key'] for entry in part['results']] == keys[:3]
    counted.limit = 10**9
    assert same(run(robust(attacks))) == same(whole)
    assert counted.images == 20  # none twice
    # Started again, nothing is left to do; damaged files are.
    assert same(run(robust(attacks))) == same(whole)
    assert counted.images == 20
    state = tmp_path / 'work' / 'robust_state'
    files = sorted(state.glob('*/counted_total_eps4_restart_0-*/*.safetensors'))
    files[0].write_bytes(files[0].read_bytes()[:-3])
    files[1].write_bytes(b'')
    assert same(run(robust(attacks))) == same(whole)
    assert counted.images == 24
    # An attack more: the others are done.
    run(robust([*attacks, dict(type='mmdiff.Counted', eps=3, steps=2)]))
    assert counted.images == 28
    run(robust(attacks, fresh=True))
    assert counted.images == 48


def test_other_weights_or_data_find_no_results_of_the_first(
    robust, weights, tmp_path, counted
):
    attacks = [dict(type='mmdiff.Counted', eps=4, steps=2)]
    run(robust(attacks))
    once = counted.images
    other = torch.load(weights, weights_only=True)
    key = next(k for k in other['state_dict'] if k.endswith('conv_cls.bias'))
    other['state_dict'][key] += 0.01
    torch.save(other, tmp_path / 'other.pth')
    runner = robust(attacks)
    runner._load_from = str(tmp_path / 'other.pth')
    told = []
    runner.logger.info = told.append
    run(runner)
    assert counted.images == 2 * once
    assert any('holds runs of another model, weights or data' in line for line in told)
    run(robust(attacks, data=dict(indices=[1, 0, 3, 2])))  # other batches
    assert counted.images == 3 * once
    run(robust(attacks, data=dict(test_mode=False)))
    assert counted.images == 4 * once
    assert len(list((tmp_path / 'work' / 'robust_state').iterdir())) == 3


@pytest.mark.parametrize('skip_fooled', [False, True])
def test_more_images_cost_only_themselves(robust, counted, skip_fooled):
    attacks = [
        dict(type='mmdiff.Counted', eps=eps, steps=2, objective=objective)
        for eps in (8, 16)
        for objective in ('total', 'cls')
    ]
    whole = run(robust(attacks, 'whole', skip_fooled=skip_fooled))
    images, counted.images = counted.images, 0
    run(robust(attacks, data=dict(indices=3), skip_fooled=skip_fooled))
    few, counted.images = counted.images, 0
    assert same(run(robust(attacks, skip_fooled=skip_fooled))) == same(whole)
    # The third image was a batch by itself, and is now one with the fourth.
    assert 0 < counted.images < few < images
    if not skip_fooled:
        assert counted.images == 2 * len(attacks)


def test_a_state_file_of_another_run_is_refused(robust, probed):
    run(robust([PGD4]))
    (folder,) = (Path(robust([]).work_dir) / 'robust_state').iterdir()
    (ours,), (theirs,) = (list(folder.glob(name)) for name in ('pgd*', 'again*'))
    files = [path for path in folder.rglob('*') if path.is_file()]
    assert {file.suffix for file in files} == {'.safetensors', '.json'}
    ours, other = min(ours.iterdir()), min(theirs.iterdir())
    ours.write_bytes(other.read_bytes())
    message = f'{ours.name} is a file of another run .*{theirs.name}.*--fresh'
    with pytest.raises(ValueError, match=message):
        run(robust([PGD4]))


def test_ranks_must_share_the_work_dir_and_then_go_on(robust, counted, monkeypatch):
    attacks = [dict(type='mmdiff.Counted', eps=4, steps=2)]
    monkeypatch.setattr(cached_runs, 'get_dist_info', lambda: (1, 2))
    with pytest.raises(FileNotFoundError, match='Rank 1 does not see .*must share'):
        runner = robust(attacks)
        folder = Path(runner.work_dir) / 'robust_state'
        run(runner)
    # It did its half; one rank alone does the rest, batches being the same.
    assert len(list(folder.rglob('*.safetensors'))) == 1
    monkeypatch.setattr(cached_runs, 'get_dist_info', lambda: (0, 1))
    report = run(robust(attacks))
    assert same(report) == same(run(robust(attacks, 'other')))


def test_restarts_count_by_objective_and_by_ap(robust):
    attack = dict(type='mmdiff.PGD', eps=6, steps=2)
    runner = robust([dict(attack, restarts=2)])
    report = run(runner)
    entry = report['results'][1]
    assert entry['restarts'] == 2 and entry['cost']['grad_evals'] == 16
    # Both together as the attack would do it by itself.
    assert (
        entry['metrics']
        == run(robust([dict(attack, restarts=2)]))['results'][1]['metrics']
    )
    alone = [
        run(robust([dict(attack, restart_offset=k)], f'alone{k}')) for k in range(2)
    ]
    ends = [r['results'][1]['sanity']['objective_ends'][1] for r in alone]
    assert entry['sanity']['objective_ends'][1] == pytest.approx(np.mean(ends))
    worst = main_metric(entry['metrics_worst_restart'])
    assert worst <= main_metric(entry['metrics'])
    assert report['results'][2]['key'] == 'worst_case_eps6'


def test_skipping_the_fooled_saves_work_and_bounds_the_worst_case(robust):
    attacks = [
        dict(type='mmdiff.PGD', eps=96, steps=4),
        dict(type='mmdiff.APGD', eps=96, steps=4, objective='cls'),
        dict(type='mmdiff.RandomNoise', eps=96),
    ]
    every = run(robust(attacks, 'every'))
    few = run(robust(attacks, 'few', skip_fooled=True))
    first, second = ({e['key']: e for e in r['results']} for r in (every, few))
    key = 'worst_case_eps96'
    assert first[key]['image_scores'] == second[key]['image_scores']
    # What more false alarms would do is not known: it is called an upper bound.
    assert main_metric(first[key]['metrics']) <= main_metric(second[key]['metrics'])
    assert second[key]['upper_bound'] and not first[key]['upper_bound']
    key = 'apgd_cls_eps96'
    assert second[key]['cost']['grad_evals'] < first[key]['cost']['grad_evals']
    assert second[key]['cumulative'] and not first[key]['cumulative']
    assert not second['pgd_total_eps96']['cumulative']  # none was before it
    assert second[key]['image_score'] <= first[key]['image_score']
    assert (
        second['random_noise_eps96']['metrics']
        == first['random_noise_eps96']['metrics']
    )
    assert second['pgd_total_eps96']['metrics'] == first['pgd_total_eps96']['metrics']


def test_a_worst_case_of_restarts_that_skip_the_fooled_is_an_upper_bound(robust):
    attack = dict(type='mmdiff.PGD', eps=96, steps=4, restarts=2)
    rows = run(robust([attack], skip_fooled=True))['results']
    assert rows[1]['cost']['grad_evals'] < 2 * 4 * 4  # some were skipped
    assert [row['key'] for row in rows[1:]] == ['pgd_total_eps96', 'worst_case_eps96']
    assert rows[1]['upper_bound'] and rows[2]['upper_bound']
    assert not rows[1]['cumulative']  # it counts no other row


class Alarm(PGD):
    """Marks its images (no pixel value is whole) and says that it did all it could."""

    def perturb(self, oracle, group, stats):
        stats.grad_evals += len(group.ids)
        return [(x - 0.5).abs() for x in group.pixels], [1.0] * len(group.ids)


ATTACKS.register_module(module=Alarm, force=True)


@pytest.mark.parametrize('skip_fooled', [False, True])
def test_false_alarms_lower_the_mean_of_images_with_clean_ap_0(robust, skip_fooled):
    """Half of the images have AP 0 before any attack, and sure false boxes after it."""
    kinds = 'total', 'cls'
    attacks = [dict(type='mmdiff.Alarm', eps=4, steps=2, objective=k) for k in kinds]
    runner = robust(attacks, skip_fooled=skip_fooled)
    step = runner.model.test_step

    def misses_and_invents(batch):
        found = step(batch)
        for x, sample in zip(batch['inputs'], found):
            marked, boxes = (x % 1).any(), sample.pred_instances
            if int(Path(sample.img_path).stem[-1]) % 2:
                sample.pred_instances = boxes = boxes[: len(boxes) if marked else 0]
                boxes.bboxes, boxes.scores = boxes.bboxes + 40, boxes.scores * 0 + 1
        return found

    runner.model.test_step = misses_and_invents
    clean, one, two, worst = run(runner)['results']
    assert one['image_score'] == clean['image_score'] == worst['image_score']
    assert (
        main_metric(one['metrics'])
        == main_metric(two['metrics'])
        < main_metric(clean['metrics'])
    )
    assert main_metric(worst['metrics']) == main_metric(one['metrics'])
    assert one['cost']['grad_evals'] == 4
    assert two['cost']['grad_evals'] == (2 if skip_fooled else 4)


def test_what_a_small_budget_finds_a_larger_one_has_too(robust):
    """At eps 32 the attacks do nothing: their worst case is that of eps 24."""
    attacks = [
        dict(type='mmdiff.Idle', eps=[32, 24]),
        dict(type='mmdiff.PGD', eps=24, steps=3),
        dict(type='mmdiff.Idle', eps=32, objective='cls'),
    ]
    for skip in (False, True):
        report = run(robust(attacks, f'work{skip}', skip_fooled=skip))
        entries = {entry['key']: entry for entry in report['results']}
        order = ['clean', 'idle_total_eps24', 'pgd_total_eps24', 'worst_case_eps24']
        order += ['idle_total_eps32', 'idle_cls_eps32', 'worst_case_eps32']
        assert list(entries) == order
        pgd, small = entries['pgd_total_eps24'], entries['worst_case_eps24']
        assert pgd['image_score'] < entries['clean']['image_score']
        assert entries['worst_case_eps32']['metrics'] == small['metrics']
        assert skip or entries['idle_total_eps32']['image_score'] > small['image_score']


def test_a_masked_attack_counts_without_the_mask_and_not_the_reverse(robust):
    """Attacks without a mask do nothing, nor do those on the background."""
    attacks = [
        dict(type='mmdiff.Idle', eps=24),
        dict(type='mmdiff.Idle', eps=24, objective='cls'),
        dict(type='mmdiff.Idle', eps=24, mask='background'),
        dict(type='mmdiff.Idle', eps=24, objective='cls', mask='background'),
        dict(type='mmdiff.PGD', eps=24, steps=3, mask='boxes'),
    ]
    runner = robust(attacks)
    entries = {entry['key']: entry for entry in run(runner)['results']}
    order = ['clean', 'idle_total_background_eps24', 'idle_cls_background_eps24']
    order += ['worst_case_background_eps24', 'pgd_total_boxes_eps24']
    order += ['idle_total_eps24', 'idle_cls_eps24', 'worst_case_eps24']
    assert list(entries) == order
    masked, whole = entries['pgd_total_boxes_eps24'], entries['worst_case_eps24']
    assert masked['mask'] == 'boxes' and 'mask' not in whole
    assert masked['image_score'] < entries['idle_total_eps24']['image_score']
    assert whole['metrics'] == masked['metrics']
    background = entries['worst_case_background_eps24']
    assert background['mask'] == 'background'
    assert main_metric(background['metrics']) > main_metric(whole['metrics'])
    # Whoever reads the file is told, in every form.
    (model,) = read_reports([runner.test_loop.out])
    page = build_page([model])
    assert list(page.budgets.values()) == [
        'Linf 24',
        'Linf 24, mask background',
        'Linf 24, mask boxes',
    ]
    assert str(page.strongest) == 'Linf 24'
    masks = [note for note in page.notes if 'the mask ' in note]
    assert len(masks) == 2 and 'the mask boxes leaves ' in masks[1]
    assert 'Linf 24, mask boxes' in results_table(model.results).to_markdown()


def test_a_healthy_attack_in_a_mask_raises_no_flag(robust, toy_root, tmp_path):
    """The first image shows no object: no pixel of it may change, and none does."""
    root = tmp_path / 'data'
    shutil.copytree(toy_root, root)
    names = (root / 'ImageSets/Main/val.txt').read_text().split()
    xml = root / f'Annotations/{names[0]}.xml'
    objects = re.compile('<object>.*</object>', re.DOTALL)
    xml.write_text(objects.sub('', xml.read_text()))
    attack = dict(type='mmdiff.PGD', eps=24, steps=16, mask='boxes')
    runner = robust([attack], data=dict(data_root=str(root)), num_gallery=1)
    report = run(runner)
    assert report['reasons'] == []
    clean, masked = report['results']
    sanity = masked['sanity']
    assert (sanity['images'], sanity['changed'], sanity['mask_empty']) == (3, 3, 1)
    assert 0.1 < sanity['mask_share'] < 0.5
    assert main_metric(masked['metrics']) < 0.7 * main_metric(clean['metrics'])
    assert masked['image_scores'][0] == clean['image_scores'][0]
    assert report['sanity']['attack'] == 'pgd_total_boxes at eps=24'
    assert report['gallery'][0]['attack'] == 'pgd_total_boxes'
    (model,) = read_reports([runner.test_loop.out])
    notes = ' '.join(build_page([model]).notes)
    assert '% of pixels and nothing of 1 images, which stay clean.' in notes


def test_the_checks_see_the_attack_in_full_when_the_fooled_are_skipped(robust):
    """Else images that other attacks brought down would count for this one."""
    attacks = [dict(type='mmdiff.PGD', eps=[24, 32], steps=5)]
    every, few = (
        run(robust(attacks, f'work{skip}', skip_fooled=skip)) for skip in (False, True)
    )
    assert every['sanity'] == few['sanity']
    last = few['results'][-1]
    assert last['sanity']['images'] < every['results'][-1]['sanity']['images']


class Idle(PGD):
    """An attack that does nothing."""

    def perturb(self, oracle, group, stats):
        return group.pixels, [0.0] * len(group.ids)


class Friend(PGD):
    """An attack that helps the detector."""

    def update(self, trace, grad, loss, step):
        return super().update(trace, -grad, loss, step)


class Loud(PGD):
    """An attack that breaks its promises."""

    def _finish(self, adv, clean):
        return adv + 300


for planted in (Idle, Friend, Loud):
    ATTACKS.register_module(module=planted, force=True)


def blocked(forward, x):
    with torch.no_grad():
        return forward(x)


def quantised(forward, x):
    return forward((2 * x).round() / 2)


def noisy(forward, x):
    return forward(x + 0.5 * torch.randn_like(x))


@pytest.mark.parametrize(
    'through, codes',
    [
        (blocked, ['blocked', 'objective_not_raised']),
        (quantised, ['zero_gradients', 'gradients_lead_nowhere']),
        (noisy, ['randomised']),
    ],
)
def test_a_model_that_hides_its_gradients_is_flagged(robust, through, codes, probed):
    report = run(robust([PGD4], through=through, sanity_images=4))
    clean, entry = report['results']
    flags = [flag['code'] for flag in entry['flags']]
    assert set(codes) - {'objective_not_raised'} <= set(flags)
    assert report['unreliable'] and report['reasons'] == entry['reasons']
    if through is blocked:
        assert flags == ['blocked'] and 'large' not in report['sanity']
        assert entry['metrics'] == clean['metrics']


def test_attacks_that_are_broken_are_flagged(robust):
    """In one plan; the first is compared with controls."""
    attacks = [
        dict(PGD4, type='mmdiff.Idle'),
        dict(PGD4, type='mmdiff.Friend', step_size=0.3, keep_best=False),
        dict(PGD4, type='mmdiff.Loud'),
    ]
    rows = run(robust(attacks, sanity_images=4))['results'][1:4]
    flags = [{flag['code'] for flag in row['flags']} for row in rows]
    assert flags[0] >= {'few_changed', 'gradient_hidden'}
    assert flags[1] >= {'objective_not_raised'}
    assert flags[2] >= {'left_budget', 'left_pixel_range'}


def test_an_attack_of_too_few_or_too_small_steps_is_flagged(robust):
    for attack in (
        dict(type='mmdiff.PGD', eps=16, steps=1),
        dict(type='mmdiff.PGD', eps=8, steps=1, step_size=1, random_start=False),
    ):
        runner = robust([attack], f'work{attack["eps"]}', sanity_images=4)
        (entry,) = run(runner)['results'][1:]
        assert 'not_converged' in [flag['code'] for flag in entry['flags']]


def boxes_first(data):
    """The pipeline with boxes that are loaded before Resize."""
    image, resize, boxes, pack = data['pipeline']
    return [image, boxes, resize, pack]


@pytest.mark.parametrize(
    'settings, words',
    [
        (dict(data=dict(indices=0)), 'has no images'),
        (dict(indices=0), 'has no images'),
        (dict(indices=-1), 'indices=-1 must be a number of first images'),
        (
            dict(evaluator=dict(type='VOCMetric', metric='recall')),
            'compares the mAP of boxes',
        ),
        (
            dict(evaluator=dict(type='CocoMetric', metric='segm')),
            'compares the mAP of boxes.*it measures segm',
        ),
        (
            dict(
                evaluator=dict(
                    type='CocoMetric', format_only=True, outfile_prefix='out'
                )
            ),
            'format_only=True writes detections to a file and measures nothing',
        ),
        (
            dict(evaluator=dict(type='CocoMetric', metric='bbox')),
            'CocoMetric has no ground truth: set ann_file',
        ),
        (
            dict(data=dict(wrap=lambda data: dict(data, pipeline=boxes_first(data)))),
            'VOCMetric compares boxes at the scale of the file',
        ),
        (
            dict(data=dict(metainfo=dict(classes=(*CLASSES, 'more')))),
            'The model tells 6 classes and the test set names 7',
        ),
        (dict(hook=dict(type='mmdiff.AttackHook', attack=PGD4)), 'remove AttackHook'),
        (dict(data=dict(pipeline='no boxes')), 'has no ground truth; add'),
        (dict(attacks=[dict(PGD4, objective='cls')]), "no loss for objective='cls'"),
    ],
)
def test_bad_input_is_one_sentence_at_once(robust, settings, words):
    settings = dict(settings)
    hook, attacks = settings.pop('hook', None), settings.pop('attacks', [PGD4])
    if settings.get('data', {}).get('pipeline'):
        pipeline = robust([]).cfg.test_dataloader.dataset.pipeline
        pipeline = [step for step in pipeline if step.type != 'LoadAnnotations']
        settings['data'] = dict(pipeline=pipeline)
    runner = robust(attacks, **settings)
    if hook is not None:
        runner.register_hook(hook)
    if attacks[0] is not PGD4:  # a head of other losses

        def loss_by_feat(*args, **kwargs):
            return dict(loss_heatmap=args[0][0].sum())

        runner.model.bbox_head.loss_by_feat = loss_by_feat
    with pytest.raises(ValueError, match=words):
        runner.test()
    assert not list(Path(runner.work_dir).rglob('*.safetensors'))


def test_the_protocol_is_in_report_and_table(robust):
    runner = robust([PGD4], protocol='paper')
    report = run(runner)
    assert report['protocol'] == 'paper'
    assert 'protocol: paper' in results_table(runner.test_loop.results).title
    with pytest.raises(ValueError, match=r"protocol='none' must be one of"):
        run(robust([PGD4], protocol='none'))


@pytest.fixture
def without_boxes(monkeypatch):
    """Let no head be one for DAG."""

    def refuse(*args):
        raise NotApplicable('DAG attacks proposals, and this has none.')

    monkeypatch.setattr('mmdiff.attacks.dag.propose', refuse)


def test_a_preset_leaves_out_what_does_not_apply_and_says_so(robust, without_boxes):
    attacks = [dict(type='DAG', eps=[4, 8], steps=1), dict(type='PGD', steps=1)]
    runner = robust(attacks, leave_out=True)
    report = run(runner)
    assert [row['label'] for row in report['results']] == ['clean', 'pgd_total']
    (left_out,) = report['left_out']  # once, not at each budget
    assert left_out['attack'] == 'dag_targets' and 'has none' in left_out['reason']
    notes = build_page(read_reports([runner.test_loop.out])).notes
    assert any('dag_targets was left out. DAG attacks' in note for note in notes)


def test_an_attack_asked_for_by_name_is_refused(robust, without_boxes):
    attacks = [dict(type='DAG', eps=8, steps=1), dict(type='PGD', steps=1)]
    with pytest.raises(NotApplicable, match='this has none'):
        robust(attacks).test()
    with pytest.raises(ValueError, match='No attack is left for this model: DAG'):
        robust(attacks[:1], leave_out=True).test()


def test_a_config_of_classes_gives_a_report_and_is_resumed(robust):
    """As configs in pure Python have them."""
    data = dict(type=VOCDataset)
    first = run(robust([PGD4], data=data))
    assert first['complete']
    assert first['dataset']['type'] == 'mmdet.datasets.voc.VOCDataset'
    again = run(robust([PGD4], data=data))
    assert same(first) == same(again)
    seconds = [[row['cost']['seconds'] for row in r['results']] for r in (first, again)]
    assert seconds[0] == seconds[1]  # nothing was run again


def test_a_config_file_in_pure_python_gives_a_report(robust, tmp_path):
    cfg = robust([PGD4]).cfg.to_dict()
    lines = [f'{name} = {value!r}' for name, value in cfg.items()]
    text = '\n'.join(['from mmdet.datasets import VOCDataset', *lines])
    path = tmp_path / 'pure.py'
    path.write_text(text.replace("'VOCDataset'", 'VOCDataset'))
    cfg = Config.fromfile(path)
    cfg.experiment_name = 'pure'
    report = run(Runner.from_cfg(cfg))
    assert report['complete'] and report['name'] == 'pure'
    assert report['dataset']['type'] == 'mmdet.datasets.voc.VOCDataset'


def test_a_class_without_objects_leaves_strict_json(robust, toy_root, tmp_path):
    runner = make_runner(toy_root, tmp_path, dict())
    path = tmp_path / 'coco.json'
    evaluator = dict(coco_evaluator(runner, path), classwise=True)
    content = json.loads(path.read_text())
    missing = content['annotations'][0]['category_id']
    content['annotations'] = [
        box for box in content['annotations'] if box['category_id'] != missing
    ]
    path.write_text(json.dumps(content))
    runner = robust([PGD4], evaluator=evaluator)
    clean = run(runner)['results'][0]
    assert clean['metrics'][f'coco/{CLASSES[missing]}_precision'] is None
    assert 'NaN' not in runner.test_loop.out.read_text()
    assert read_reports([runner.test_loop.out])


def test_images_without_any_object_are_one_sentence(robust, toy_root, tmp_path):
    runner = make_runner(toy_root, tmp_path, dict())
    path = tmp_path / 'coco.json'
    evaluator = coco_evaluator(runner, path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(dict(content, annotations=[])))
    with pytest.raises(ValueError, match='show no objects of any class'):
        robust([PGD4], evaluator=evaluator).test()


def test_a_picture_that_cannot_be_drawn_costs_no_result(robust, monkeypatch, caplog):
    def fail(*args, **kwargs):
        raise RuntimeError('no\nfont')

    monkeypatch.setattr('mmdiff.engine.gallery._predictions', fail)
    runner = robust([PGD4], num_gallery=2)
    with caplog.at_level('WARNING'):
        report = run(runner)
    assert report['complete'] and report['gallery'] == []
    assert len(report['results']) == 2


def test_the_report_is_complete_before_pictures_are_drawn(robust, monkeypatch):
    runner = robust([PGD4], num_gallery=1)

    def die(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr('mmdiff.engine.gallery.draw_grid', die)
    with pytest.raises(KeyboardInterrupt):
        runner.test()
    assert json.loads(runner.test_loop.out.read_text())['complete']


@TRANSFORMS.register_module(force=True)
class Channels(BaseTransform):
    """Gives images of another number of channels."""

    def __init__(self, count):
        self.count = count

    def transform(self, results):
        image = results['img']
        results['img'] = np.concatenate([image, image], 2)[..., : self.count]
        return results


@pytest.mark.parametrize('count', [1, 5])
def test_images_of_any_number_of_channels_are_drawn(robust, monkeypatch, count):
    original = detector_config

    def with_channels(*args):
        config = original(*args)
        config.backbone.in_channels = count
        config.data_preprocessor = dict(type='DetDataPreprocessor', pad_size_divisor=32)
        return config

    pipeline = robust([]).cfg.test_dataloader.dataset.pipeline
    pipeline = [pipeline[0], dict(type='Channels', count=count), *pipeline[1:]]
    monkeypatch.setitem(make_runner.__globals__, 'detector_config', with_channels)
    runner = robust([PGD4], data=dict(pipeline=pipeline), num_gallery=1)
    runner._load_from = None
    report = run(runner)
    assert report['complete']
    (picture,) = report['gallery']
    assert (runner.test_loop.out.parent / picture['file']).stat().st_size > 0


WRAPPERS = {
    'concat': lambda data: dict(type='ConcatDataset', datasets=[data, data]),
    'repeat': lambda data: dict(type='RepeatDataset', times=2, dataset=data),
    'balanced': lambda data: dict(
        type='ClassBalancedDataset', oversample_thr=1e-9, dataset=data
    ),
    'mixed': lambda data: dict(type='MultiImageMixDataset', dataset=data, pipeline=[]),
}


@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_the_first_images_of_a_wrapped_set_are_those_of_the_set(robust, wrapper):
    plain = run(robust([PGD4], 'plain', data=dict(indices=2)))
    data = dict(wrap=WRAPPERS[wrapper])
    wrapped = run(robust([PGD4], 'wrapped', data=data, indices=2))
    assert wrapped['dataset']['indices'] == 2
    for one, other in zip(plain['results'], wrapped['results'], strict=True):
        for name in ('num_images', 'metrics', 'per_class', 'image_score'):
            assert one[name] == other[name]


def test_a_whole_wrapped_set_is_attacked(robust):
    report = run(robust([PGD4], data=dict(wrap=WRAPPERS['mixed'])))
    assert report['complete'] and report['results'][1]['num_images'] == 4


def test_parts_that_differ_in_colours_alone_are_one_set(robust):
    """mmdet's ConcatDataset gives a list of their information, in place of one."""

    def two(data, **changes):
        other = dict(data, metainfo=dict(classes=CLASSES, **changes))
        return dict(type='ConcatDataset', datasets=[data, other])

    plain = run(robust([PGD4], 'plain', data=dict(wrap=two)))
    coloured = dict(wrap=lambda data: two(data, palette=[(1, 1, 1)] * len(CLASSES)))
    report = run(robust([PGD4], 'coloured', data=coloured))
    for one, other in zip(plain['results'], report['results'], strict=True):
        assert one['metrics'] == other['metrics']
        assert one['per_class'] == other['per_class']


def test_an_empty_wrapped_set_is_one_sentence(robust):
    def empty(data):
        return dict(type='ConcatDataset', datasets=[dict(data, indices=0)])

    with pytest.raises(ValueError, match='The test set has no images'):
        robust([PGD4], data=dict(wrap=empty)).test()


def test_repeated_images_are_refused_where_a_metric_goes_by_their_id(
    robust, toy_root, tmp_path
):
    runner = make_runner(toy_root, tmp_path, dict())
    evaluator = coco_evaluator(runner, tmp_path / 'coco.json')
    data = dict(wrap=WRAPPERS['repeat'])
    with pytest.raises(ValueError, match='come more than once; test without'):
        robust([PGD4], evaluator=evaluator, data=data).test()
    run(robust([PGD4], evaluator=evaluator, data=data, indices=4))  # each once


def test_masks_are_not_measured_and_the_report_says_so(robust, toy_root, tmp_path):
    runner = make_runner(toy_root, tmp_path, dict())
    evaluator = coco_evaluator(runner, tmp_path / 'coco.json')
    boxes = run(robust([PGD4], 'boxes', evaluator=evaluator))
    both = [
        dict(evaluator, metric=['bbox', 'segm']),
        dict(evaluator, metric='segm'),
    ]
    runner = robust([PGD4], 'both', evaluator=both)
    report = run(runner)
    assert report['not_measured'] == ['segm of CocoMetric'] * 2
    assert boxes['not_measured'] == []
    for one, other in zip(boxes['results'], report['results'], strict=True):
        assert one['metrics'] == other['metrics']
    notes = build_page(read_reports([runner.test_loop.out])).notes
    assert any('segm of CocoMetric was not measured' in note for note in notes)
