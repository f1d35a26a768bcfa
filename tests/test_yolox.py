"""The public detector of docs/results/yolox.md: its config and its weights."""

import os
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_UNET, batch_of, run
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.runner import load_checkpoint

from mmdiff import PGD
from mmdiff.engine.presets import task_of_config

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / 'configs' / 'robustness' / 'yolox-nano_coco-weights_voc07.py'
WEIGHTS = Path(
    os.environ.get('MMDIFF_YOLOX', ROOT / 'data' / 'yolox_nano_coco.safetensors')
)


@pytest.fixture
def tool():
    return runpy.run_path(str(ROOT / 'tools' / 'benchmarks' / 'coco_to_voc.py'))


def test_its_config_is_attacked(tool):
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(CONFIG).model).eval()
    batch = batch_of([(3, 64, 64)], (2,))
    result = run(PGD(eps=8, steps=1, objective='detections'), model, batch)
    assert result.stats.changed == 1 and not result.stats.zero_grads


@pytest.fixture
def shielded():
    """The config with a shield, on a prior that is quick to run."""
    cfg = Config.fromfile(CONFIG.with_name('yolox-nano_one-step-shield_voc07.py'))
    assert cfg.model.purifier.model.source == 'data/priors/voc128_patch4'
    cfg.model.purifier.model.source = TINY_UNET
    return cfg


def test_its_config_with_a_shield_is_attacked_and_takes_the_same_weights(shielded):
    assert task_of_config(shielded) == 'detection'
    torch.manual_seed(0)
    model = MODELS.build(shielded.model).eval()
    bare = MODELS.build(Config.fromfile(CONFIG).model)
    model.load_state_dict(bare.state_dict())
    batch = batch_of([(3, 64, 64)], (2,))
    result = run(PGD(eps=8, steps=1, objective='detections'), model, batch)
    assert result.stats.changed == 1 and not result.stats.zero_grads


@pytest.fixture
def smoothed():
    """The config with median smoothing, on a prior that is quick to run."""
    cfg = Config.fromfile(CONFIG.with_name('yolox-nano_median-smoothing_voc07.py'))
    assert cfg.model.purifier.model.source == 'data/priors/voc128_patch4'
    cfg.model.purifier = dict(
        type='mmdiff.OneStepDenoiser', model=TINY_UNET, timestep=45
    )
    cfg.model.update(radii=[0.01], num_copies=16, state_dir=None)
    return cfg


def test_its_config_with_smoothing_takes_the_same_weights_and_is_not_attacked(smoothed):
    assert task_of_config(smoothed) == 'detection'
    assert [metric.type for metric in smoothed.test_evaluator] == [
        'VOCMetric',
        'mmdiff.CertifiedAP',
    ]
    model = MODELS.build(smoothed.model).eval()
    bare = MODELS.build(Config.fromfile(CONFIG).model)
    model.load_state_dict(bare.state_dict(), strict=True)
    batch = batch_of([(3, 64, 64)], (2,))
    with pytest.raises(ValueError, match='attack the detector in it'):
        run(PGD(eps=8, steps=1, objective='detections'), model, batch)


@pytest.mark.parametrize('wrapper', ['shielded', 'smoothed'])
def test_mmdets_inferencer_runs_behind_a_shield(wrapper, request):
    from mmdet.apis import DetInferencer

    cfg = request.getfixturevalue(wrapper)
    cfg.test_dataloader.dataset.pipeline[1].scale = (64, 64)
    inferencer = DetInferencer(cfg, weights=None, device='cpu')
    image = np.zeros((60, 50, 3), np.uint8)
    results = inferencer(image, no_save_vis=True, pred_score_thr=0.0)
    assert set(results['predictions'][0]) >= {'bboxes', 'labels', 'scores'}


def test_rows_of_voc_are_those_of_its_classes(tool):
    state = {
        'conv_cls.0.weight': torch.arange(80.0),
        'other': torch.arange(3.0),
    }
    kept = tool['keep_classes'](state, tool['rows_of_voc'](), 'conv_cls.')
    expected = [4, 1, 14, 8, 39, 5, 2, 15, 56, 19, 60, 16, 17, 3, 0, 58, 18, 57, 6, 62]
    assert kept['conv_cls.0.weight'].tolist() == expected
    assert kept['other'].tolist() == [0, 1, 2]


def test_other_layers_are_refused_in_one_sentence(tool):
    with pytest.raises(ValueError, match='No weights are called missing; give --lay'):
        tool['keep_classes']({'other': torch.zeros(3)}, [0], 'missing')
    with pytest.raises(ValueError, match='conv_cls has 3 rows, not one for each'):
        tool['keep_classes']({'conv_cls': torch.zeros(3)}, [0], 'conv_cls')


@pytest.mark.skipif(
    not WEIGHTS.is_file(),
    reason=f'{WEIGHTS} (YOLOX-Nano of Megvii) is not there; MMDIFF_YOLOX names it',
)
def test_its_weights_are_of_the_config(tool, tmp_path):
    from safetensors.torch import load_file

    layer = 'bbox_head.multi_level_conv_cls.'
    state = tool['keep_classes'](load_file(WEIGHTS), tool['rows_of_voc'](), layer)
    torch.save(dict(state_dict=state), tmp_path / 'yolox.pth')
    model = MODELS.build(Config.fromfile(CONFIG).model)
    load_checkpoint(model, str(tmp_path / 'yolox.pth'), strict=True)
