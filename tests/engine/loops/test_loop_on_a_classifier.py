"""The seam of tasks: the loop knows nothing of boxes."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import Compose, LoadImageFromFile, Pad
from mmengine.config import Config
from mmengine.runner import Runner

from mmdiff.attacks import PGD, Square  # noqa: F401 (registered)
from mmdiff.engine import gallery
from mmdiff.engine.presets import attack_configs
from mmdiff.evaluation.report import build_page, read_reports, render

pytest.importorskip('mmpretrain')
CLASSES = ('cat', 'dog')


@pytest.fixture
def runner(tmp_path):
    """A classifier that tells dark images from bright ones."""
    generator = np.random.default_rng(0)
    for level, name in zip((100, 140), CLASSES):
        (tmp_path / 'data' / name).mkdir(parents=True)
        for i in range(3):
            noise = generator.integers(0, 20, (32, 32, 3))
            image = (level + noise).astype(np.uint8)
            cv2.imwrite(str(tmp_path / 'data' / name / f'{i}.png'), image)
    model = dict(
        type='ImageClassifier',
        data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3, num_classes=2),
        backbone=dict(
            type='ResNet',
            depth=18,
            base_channels=8,
            stem_channels=8,
            norm_cfg=dict(type='GN', num_groups=1),
        ),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=2, in_channels=64),
    )
    dataset = dict(
        type='CustomDataset',
        data_root=str(tmp_path / 'data'),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
    )
    sampler = dict(type='DefaultSampler', shuffle=False)
    attacks = [
        dict(type='mmdiff.PGD', eps=[2, 32], steps=5),
        dict(type='mmdiff.Square', eps=32, steps=20),
    ]
    cfg = dict(
        model=model,
        default_scope='mmpretrain',
        work_dir=str(tmp_path / 'work'),
        test_dataloader=dict(
            batch_size=2, num_workers=0, sampler=sampler, dataset=dataset
        ),
        test_evaluator=dict(type='Accuracy', topk=(1,)),
        test_cfg=dict(
            type='mmdiff.RobustTestLoop', attacks=attacks, sanity_images=6, name='tiny'
        ),
        log_level='WARNING',
        randomness=dict(seed=0),
        experiment_name=tmp_path.name,
    )
    runner = Runner.from_cfg(Config(cfg))
    train(runner)
    return runner


def train(runner):
    model = runner.model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(20):
        for batch in runner.test_dataloader:
            data = model.data_preprocessor(batch, training=True)
            loss, _ = model.parse_losses(model(**data, mode='loss'))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def test_a_classifier_is_tested_as_a_detector_is(runner, tmp_path):
    metrics = runner.test()
    path = tmp_path / 'work' / 'robustness.json'
    report = json.loads(path.read_text())
    assert report['task'] == 'classification' and report['complete']
    rows = {row['key']: row for row in report['results']}
    assert list(rows) == [
        'clean',
        'pgd_total_eps2',
        'pgd_total_eps32',
        'square_total_eps32',
        'worst_case_eps32',
    ]
    for key, row in rows.items():
        accuracy = metrics[f'{key}/accuracy/top1']
        assert row['metrics'] == {'accuracy/top1': accuracy}
        assert row['image_score'] == pytest.approx(accuracy / 100)
        assert np.mean(list(row['per_class'].values())) == pytest.approx(accuracy / 100)
    assert rows['clean']['image_score'] == 1
    assert rows['pgd_total_eps32']['image_score'] < 1
    assert (
        rows['worst_case_eps32']['image_score']
        <= (rows['pgd_total_eps32']['image_score'])
    )
    assert report['sanity']['large'] < 1 and len(report['gallery']) == 3
    assert all((path.parent / shot['file']).is_file() for shot in report['gallery'])
    assert report['intervals']['problem'] == '' and 'broke' not in rows['clean']
    low, high = rows['pgd_total_eps32']['interval']
    assert low <= rows['pgd_total_eps32']['image_score'] <= high
    html = render(build_page(read_reports([path])))
    assert 'accuracy over the budget' in html


def test_saved_images_of_a_classifier_are_read_by_mmpretrain(runner, tmp_path):
    cfg, model = runner.cfg, runner.model
    cfg.test_cfg.update(save_adversarial=str(tmp_path / 'sets'), sanity_images=2)
    cfg.test_cfg.attacks = [dict(type='mmdiff.PGD', eps=24, steps=5)]
    runner._test_loop = dict(cfg.test_cfg)
    metrics = runner.test()
    folder = tmp_path / 'sets' / 'pgd_total_eps24'
    about = json.loads((folder / 'budget.json').read_text())
    assert about['on_disk']['linf_max'] == 24 and about['num_images'] == 6
    text = (folder / 'README.md').read_text().split('```python\ndataset = ')[1]
    cfg.test_dataloader.dataset = eval(text.split('```')[0])  # noqa: S307 (ours)
    cfg.test_cfg, cfg.experiment_name = dict(), f'{tmp_path.name}-again'
    again = Runner.from_cfg(cfg)
    again.model.load_state_dict(model.state_dict())
    value = again.test()['accuracy/top1']
    assert value / 100 == about['metric_of_files']
    assert value < metrics['clean/accuracy/top1']


def test_the_standard_preset_runs_on_a_classifier(runner, tmp_path):
    pytest.importorskip('torchattacks', reason='pip install --no-deps torchattacks')
    attacks = attack_configs('standard', '0.01', 2, task='classification')
    attacks += attack_configs('torch_cw', steps=2)
    runner.cfg.test_cfg.update(attacks=attacks, leave_out=True, sanity_images=2)
    runner._test_loop = dict(runner.cfg.test_cfg)
    runner.test()
    report = json.loads((tmp_path / 'work' / 'robustness.json').read_text())
    rows = {row['key']: row for row in report['results']}
    assert [*rows][1:5] == [
        'apgd_ce_eps0.01',
        'torch_fab_eps0.01',
        'square_cw_eps0.01',
        'worst_case_eps0.01',
    ]
    (left_out,) = report['left_out']
    assert left_out['attack'] == 'apgd_dlr_targeted'
    assert 'compares the 4 largest logits' in left_out['reason']
    fab, cw = rows['torch_fab_eps0.01'], rows['torch_cw_l2']
    # They fail, and give clean images back: no reason for a flag.
    for row in (fab, cw):
        assert row['sanity']['returned_clean'] == 6 == row['sanity']['images']
        assert 'few_changed' not in [flag['code'] for flag in row['flags']]
    assert fab['multi_targeted'] and fab['steps'] == 2 and cw['eps'] is None
    assert fab['cost']['grad_evals'] > 0 and report['versions']['torchattacks']


def test_a_classifier_without_an_accuracy_is_refused(runner):
    runner._test_evaluator = dict(type='ConfusionMatrix')
    runner._test_loop = dict(runner.cfg.test_cfg)
    with pytest.raises(ValueError, match="set test_evaluator to dict.type='Accuracy'"):
        runner.test_loop  # noqa: B018 (it is built now)


@pytest.mark.parametrize('of_files', [True, False])
def test_pictures_have_the_colours_of_the_images(of_files):
    """Files are loaded BGR; sets of arrays (CIFAR) give RGB."""
    loads = [LoadImageFromFile()] if of_files else []
    dataset = SimpleNamespace(pipeline=Compose([*loads, Pad(size=(4, 4))]))
    assert gallery._loads_files(dataset) == of_files
    red = torch.zeros(3, 4, 4)
    red[2 if of_files else 0] = 255
    shown = gallery._to_image(red, rgb=not gallery._loads_files(dataset))
    assert shown[0, 0].tolist() == [255, 0, 0]
