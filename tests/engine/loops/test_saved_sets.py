"""Attacked images as data sets, read by mmdet's own datasets and tested again."""

import json
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from mmdet.evaluation import VOCMetric
from test_robust_test_loop import (  # noqa: F401 (fixtures)
    VOC,
    Channels,
    _quick,
    coco_evaluator,
    make_runner,
    robust,
    run,
    same,
    toy_root,
    weights,
)

from mmdiff.attacks import RandomNoise
from mmdiff.attacks.probes import Probes
from mmdiff.engine.loops.cached_runs import CachedRuns
from mmdiff.engine.loops.image_store import read_image
from mmdiff.evaluation.entry import main_metric
from mmdiff.evaluation.record import RunRecord
from mmdiff.registry import ATTACKS

NOISE = dict(type='mmdiff.CountedNoise', eps=4)
# Side of the toy set's inputs over that of its files.
SCALE = 96 / 64


@ATTACKS.register_module(force=True)
class CountedNoise(RandomNoise):
    """Counts images, those of the first check too, and stops the run when told."""

    images, limit = 0, 10**9

    def perturb(self, oracle, group, stats):
        if CountedNoise.images + len(group.ids) > CountedNoise.limit:
            raise KeyboardInterrupt
        CountedNoise.images += len(group.ids)
        return super().perturb(oracle, group, stats)


@pytest.fixture
def counted():
    CountedNoise.images, CountedNoise.limit = 0, 10**9
    return CountedNoise


@pytest.fixture(autouse=True)
def _unchecked(monkeypatch):
    """Leave out what is behind the checks: it makes no images of rows."""
    where = 'mmdiff.engine.loops'
    monkeypatch.setattr(f'{where}.robust_test_loop.ask_once', lambda *a: Probes())

    def noise_alone(attack, num_values):
        return dict(random_noise=RandomNoise(attack.eps))

    monkeypatch.setattr(f'{where}.robust_plan.controls', noise_alone)


def about(folder):
    return json.loads((folder / 'budget.json').read_text())


def blocks(folder):
    """Datasets as the folder's README gives them."""
    parts = (folder / 'README.md').read_text().split('```python\ndataset = ')[1:]
    return [eval(part.split('```')[0]) for part in parts]  # noqa: S307 (ours)


@pytest.fixture
def counted_boxes(monkeypatch):
    """What VOC's metric is handed: ``(mAP, detections by image and class)``."""
    seen, compute = [], VOCMetric.compute_metrics

    def keep(self, results):
        metrics = compute(self, results)
        seen.append((metrics['mAP'], [boxes for _, boxes in results]))
        return metrics

    monkeypatch.setattr(VOCMetric, 'compute_metrics', keep)
    return seen


def same_detections(files, row):
    """Whether two lists are equal, boxes at the scales of the input and of files.

    Their metrics need not be: VOC's adds a pixel to all sides, whatever the scale, so
    that a box near the threshold may change sides.
    """
    for ours, theirs in zip(chain(*files), chain(*row), strict=True):
        assert np.array_equal(ours[:, 4], theirs[:, 4])
        assert ours[:, :4] == pytest.approx(SCALE * theirs[:, :4], abs=1e-3)
    return True


@pytest.fixture
def measure(toy_root, weights, tmp_path):  # noqa: F811
    """``measure(dataset, evaluator)``: mAP of the detector by mmengine's own loop."""

    def test_plainly(dataset, evaluator=VOC):
        work = tmp_path / 'plain'
        runner = make_runner(toy_root, work, dict(), evaluator, weights, **dataset)
        return main_metric(runner.test())

    return test_plainly


def rows_of(report):
    return {row['key']: row for row in report['results']}


def test_png_sets_give_what_the_rounded_attack_leaves(
    robust,  # noqa: F811
    measure,
    counted_boxes,
    tmp_path,
):
    attack = dict(type='mmdiff.PGD', eps=[0.5, 6], steps=5)
    out = tmp_path / 'sets'
    report = run(robust([attack], save_adversarial=str(out)))
    rows = rows_of(report)
    rounded = rows_of(run(robust([dict(attack, quantize=True)], 'whole')))
    for key in ('pgd_total_eps0.5', 'pgd_total_eps6'):
        value = main_metric(rows[key]['metrics_after_rounding'])
        assert value == main_metric(rounded[key]['metrics'])
        assert rounded[key]['metrics_after_rounding'] == rounded[key]['metrics']
        coco, voc = blocks(out / key)
        assert (coco['type'], voc['type']) == ('CocoDataset', 'VOCDataset')
        row = [boxes for mean, boxes in counted_boxes if mean == value][-1]
        for dataset in (coco, voc):
            measure(dataset)
            assert same_detections(counted_boxes[-1][1], row)
        told = about(out / key)
        assert told['metric_of_files'] == value
        assert told['on_disk']['linf_max'] <= told['eps']
    # Less than one pixel value is nothing in 8 bits.
    weak, strong = (about(out / f'pgd_total_eps{eps}') for eps in (0.5, 6))
    assert weak['on_disk']['unchanged'] == 4 and 'hold no attack' in weak['notes'][0]
    assert strong['on_disk']['unchanged'] == 0 and strong['notes'] == []
    weak, strong = (rows[f'pgd_total_eps{eps}'] for eps in (0.5, 6))
    assert weak['metrics_after_rounding'] == rows['clean']['metrics']
    assert main_metric(strong['metrics_after_rounding']) < 0.8
    for image in (out / 'clean' / 'images').iterdir():
        assert read_image(image).shape == (96, 96, 3)


def test_a_masked_set_names_its_mask_and_keeps_all_other_pixels(robust, tmp_path):  # noqa: F811
    out = tmp_path / 'sets'
    attack = dict(type='mmdiff.PGD', eps=4, steps=1, mask=(0, 0, 0.5, 1))
    run(robust([attack], save_adversarial=str(out)))
    folders = {about(path.parent)['role']: path.parent for path in out.glob('*/*.json')}
    told = about(folders['attack'])
    assert (
        told['mask'] == 'rectangle 0,0,0.5,1' and about(folders['clean'])['mask'] == ''
    )
    readme = (folders['attack'] / 'README.md').read_text()
    assert 'eps 4, mask rectangle 0,0,0.5,1' in readme
    for name in told['origin']:
        one, clean = (
            read_image(folders[role] / 'images' / name) for role in ('attack', 'clean')
        )
        half = one.shape[1] // 2
        assert (one[:, half:] == clean[:, half:]).all()
        assert (one[:, :half] != clean[:, :half]).any()


def test_float_sets_give_what_the_row_says(robust, measure, toy_root, tmp_path):  # noqa: F811
    out = tmp_path / 'sets'
    runner = make_runner(toy_root, tmp_path, dict())
    evaluator = coco_evaluator(runner, tmp_path / 'coco.json')
    attack = dict(type='mmdiff.PGD', eps=6, steps=3, restarts=2)
    settings = dict(save_adversarial=str(out), save_format='npy')
    rows = rows_of(run(robust([attack], evaluator=evaluator, **settings)))
    for key in ('pgd_total_eps6', 'worst_case_eps6'):
        (coco,) = blocks(out / key)
        annotations = str(out / key / 'annotations.json')
        value = measure(coco, dict(evaluator, ann_file=annotations))
        assert value == main_metric(rows[key]['metrics'])
        assert 'Annotations' not in [path.name for path in (out / key).iterdir()]
    told = about(out / 'worst_case_eps6')
    names = ('clean', 'pgd_total_eps6_restart_0', 'pgd_total_eps6_restart_1')
    chosen = [name.replace(' ', '_') for name in told['origin'].values()]
    assert list(told['origin'].values()) == rows['worst_case_eps6']['chosen']
    assert set(chosen) <= set(names)
    assert any(
        (read_image(path) % 1).any()
        for path in (out / 'pgd_total_eps6' / 'images').iterdir()
    )


def files_of(folder):
    """All files with their bytes, but for what tells times and places."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file() and path.suffix != '.md'
    }


def test_killed_and_resumed_leaves_the_same_sets(robust, counted, tmp_path):  # noqa: F811
    attacks = [dict(NOISE, eps=[2, 4])]
    whole, out = tmp_path / 'whole sets', tmp_path / 'sets'
    run(robust(attacks, 'whole', save_adversarial=str(whole)))
    assert counted.images == 10  # four images, two budgets, and one check of each
    counted.images, counted.limit = 0, 8
    with pytest.raises(KeyboardInterrupt):
        run(robust(attacks, save_adversarial=str(out)))
    there = sorted(path.name for path in out.iterdir())
    assert there == ['clean', 'counted_noise_eps2', 'saved.json']  # none half done
    counted.limit = 10**9
    run(robust(attacks, save_adversarial=str(out)))
    assert counted.images == 12  # two checks more
    first, second = files_of(whole), files_of(out)
    for name in [name for name in first if name.name in ('budget.json', 'saved.json')]:
        assert json.loads(first.pop(name)) == json.loads(second.pop(name))
    assert first == second
    # What somebody changed or took away is made again; nothing else is.
    state = Path(robust([]).work_dir) / 'robust_state'
    (file,) = state.glob('*/counted_noise_eps4-*/png/000001.png')
    file.write_bytes(b'')
    (out / 'counted_noise_eps2' / 'images' / 'val_00001.png').unlink()
    run(robust(attacks, save_adversarial=str(out)))
    assert counted.images == 12 + 2 + 2
    third = files_of(out)
    assert all(third[name] == content for name, content in second.items())


def test_images_of_a_run_that_saved_none_are_made_later(robust, counted, tmp_path):  # noqa: F811
    report = run(robust([NOISE], data=dict(indices=3)))
    assert counted.images == 4
    out = tmp_path / 'sets'
    settings = dict(save_adversarial=str(out))
    again = run(robust([NOISE], data=dict(indices=3), **settings))
    assert counted.images == 8 and same(again)['results'] == same(report)['results']
    assert len(list((out / 'clean' / 'images').iterdir())) == 3
    # Of an image more, the batch that it is in.
    run(robust([NOISE], **settings))
    assert counted.images == 8 + 1 + 2
    assert len(blocks(out / 'clean')) == 2
    assert about(out / 'counted_noise_eps4')['num_images'] == 4


def test_state_of_a_version_that_rounded_nothing_is_read_and_said(
    robust,  # noqa: F811
    monkeypatch,
):
    with monkeypatch.context() as before:
        before.setattr(CachedRuns, '_round', lambda *a: None)
        save = RunRecord.save

        def save_without(self, path, run_name):
            self.rounded = []
            save(self, path, run_name)

        before.setattr(RunRecord, 'save', save_without)
        old = run(robust([NOISE]))
    runner, told = robust([NOISE]), []
    runner.logger.warning = told.append
    report = run(runner)
    assert same(report) == same(old)
    assert all('metrics_after_rounding' not in row for row in report['results'])
    assert sum('no metrics after rounding; --fresh' in line for line in told) == 2
    fresh = run(robust([NOISE], fresh=True))
    for row in fresh['results']:
        assert row.pop('metrics_after_rounding')
    assert same(fresh) == same(report)


def test_skipped_images_are_those_that_fooled(robust, tmp_path):  # noqa: F811
    attacks = [
        dict(type='mmdiff.PGD', eps=96, steps=4),
        dict(type='mmdiff.PGD', eps=96, steps=4, objective='cls'),
    ]
    out = tmp_path / 'sets'
    settings = dict(skip_fooled=True, save_adversarial=str(out))
    rows = rows_of(run(robust(attacks, **settings)))
    first, second = out / 'pgd_total_eps96', out / 'pgd_cls_eps96'
    fooled = [score == 0 for score in rows['pgd_total_eps96']['image_scores']]
    assert any(fooled) and rows['pgd_cls_eps96']['cumulative']
    for skipped, (name, origin) in zip(fooled, about(second)['origin'].items()):
        assert origin == ('pgd_total_eps96' if skipped else 'pgd_cls_eps96')
        images = [(folder / 'images' / name).read_bytes() for folder in (first, second)]
        assert (images[0] == images[1]) == skipped


@pytest.mark.parametrize(
    'settings, words',
    [
        (dict(save_adversarial='full'), 'holds other files; give an empty or new'),
        (dict(save_adversarial='full/notes.txt'), 'is a file; give a folder'),
        (dict(save_adversarial='a', save_format='jpg'), "'jpg' must be one of"),
        (dict(save_format='npy'), 'and not where; add save_adversarial'),
        (dict(save_adversarial='sets', save_format='npy'), 'images of another run'),
        (dict(save_adversarial='sets', data=dict(test_mode=False)), 'of another run'),
        (dict(save_adversarial='sets', seed=1), 'this attack with these settings'),
        (dict(save_adversarial='a', count=5), '5 channels cannot be saved as PNG'),
    ],
)
def test_what_cannot_be_saved_is_one_sentence_at_once(
    robust,  # noqa: F811
    tmp_path,
    monkeypatch,
    settings,
    words,
):
    monkeypatch.chdir(tmp_path)
    Path('full').mkdir()
    Path('full/notes.txt').write_text('mine')
    attack, settings = dict(NOISE, seed=settings.get('seed', 0)), dict(settings)
    settings.pop('seed', None)
    if settings.get('save_adversarial') == 'sets':
        run(robust([NOISE], save_adversarial='sets'))
    before = files_of(tmp_path)
    if count := settings.pop('count', None):
        pipeline = robust([]).cfg.test_dataloader.dataset.pipeline
        pipeline = [pipeline[0], dict(type='Channels', count=count), *pipeline[1:]]
        settings['data'] = dict(pipeline=pipeline)
        monkeypatch.setattr(
            'mmdiff.engine.loops.robust_test_loop.try_attacks',
            lambda attacks, *args: (attacks, []),
        )
    with pytest.raises(ValueError, match=words):
        run(robust([attack], **settings))
    after = files_of(tmp_path)
    kept = {name for name in before if '.log' not in name.suffixes}
    assert all(after[name] == before[name] for name in kept)
    assert {n for n in after if n.suffix in ('.png', '.npy', '.safetensors')} <= kept
