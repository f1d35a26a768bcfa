"""The scripts of tools/benchmarks run, at a size at which they measure nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

from mmdiff.datasets.toy_shapes import make_toy_voc

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / 'tools' / 'benchmarks'


def run(folder, script, *flags):
    """What a script writes as JSON, run from a folder of its own."""
    out = folder / 'out.json'
    command = [sys.executable, str(FOLDER / script), *flags, '--out', str(out)]
    paths = [str(ROOT), os.environ.get('PYTHONPATH', '')]
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(paths), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(out.read_text())
    assert result['machine']['gflops'] > 0 and result['machine']['versions']['torch']
    return result


@pytest.mark.slow
def test_features_run_fewer_operations_than_a_whole_forward(tmp_path):
    flags = ['--prior', 'tiny', '--batch', '1', '--rounds', '1', '--taps', 'mid', 'all']
    result = run(tmp_path, 'features.py', *flags)
    mid, everything = result['seconds']['mid'], result['seconds']['all']
    assert mid['mmdiff']['flops'] < 0.5 * mid['hooks']['flops']
    assert everything['mmdiff']['flops'] > 0.9 * everything['hooks']['flops']
    assert all(len(way['seconds']) == 1 for way in mid.values())
    assert all(row['MiB'] for row in result['rows'] if row['FLOPs'])


@pytest.mark.slow
def test_attacks_are_timed_beside_a_loop_that_makes_as_many_gradients(tmp_path):
    flags = ['--detectors', 'yolox-nano', '--batches', '1', '--size', '64']
    result = run(tmp_path, 'attack_speed.py', *flags, '--steps', '2', '--rounds', '1')
    assert result['seconds']['yolox-nano 1']['grad_evals'] == 2
    ways = [row['PGD of'] for row in result['rows']]
    assert ways[:2] == ['loop of ten lines', 'mmdiff'] and 'ART' in ways


@pytest.mark.slow
def test_seconds_of_an_evaluation_are_those_of_its_parts(tmp_path):
    data = make_toy_voc(tmp_path / 'toy', num_train=1, num_val=2, size=64)
    name = 'faster-rcnn_toy-unet_dfpn_1xb4-2e_toy-voc.py'
    config = ROOT / 'configs' / 'detection' / name
    model = MODELS.build(Config.fromfile(config).model)
    torch.save(model.state_dict(), tmp_path / 'weights.pth')
    flags = ['--indices', '2', '--steps', '1', '--cfg-options']
    options = [f'test_dataloader.dataset.data_root={data}']
    files = [str(config), str(tmp_path / 'weights.pth')]
    result = run(tmp_path, 'loop_overhead.py', *files, *flags, *options)
    parts = 'attacks of rows', 'attacks of checks', 'probes', 'predictions', 'all else'
    assert set(result['seconds']) == set(parts)
    assert all(seconds > 0 for seconds in result['seconds'].values())


@pytest.mark.slow
def test_presets_are_compared_with_intervals(tmp_path):
    script = FOLDER / 'attack_strength.py'
    flags = ['--detectors', 'fcos@4', '--num-images', '2', '--steps', '1']
    folders = ['--work-dir', str(tmp_path / 'work'), '--out', str(tmp_path / 'out')]
    command = [sys.executable, str(script), *flags, *folders]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    page = (tmp_path / 'out' / 'strength.md').read_text()
    rows = [line for line in page.splitlines() if line.startswith('| ')]
    assert 'fcos, 4/255' in rows[0] and len(rows) == 13
    assert all(']' in row for row in rows[1:])
    assert '**worst case, version 0.1**' in page


def test_a_diffusion_classifier_is_measured_on_its_gradient_and_its_passes(tmp_path):
    flags = ['--prior', 'tiny', '--levels', '16', '--batch', '2', '--images', '3']
    result = run(tmp_path, 'diffusion_classifier.py', *flags)
    assert result['gradient']['MiB'] > 0 and result['gradient']['seconds'] > 0
    assert result['all']['calls'] == [48] * 3 and result['all']['share'] == 1
    assert max(result['eliminated']['calls']) <= 48
    assert 0 < result['eliminated']['share'] <= 1 and result['truth'] == [0, 1, 2]
