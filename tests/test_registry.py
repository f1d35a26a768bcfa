"""Every component is found by its name alone."""

import subprocess
import sys
from pathlib import Path

import pytest

NAMES = {
    'ATTACKS': [
        *('APGD', 'DAG', 'MIM', 'PGD', 'RandomNoise', 'Square', 'TorchAttack'),
        'Universal',
    ],
    'DATASETS': ['ClassFolders'],
    'HOOKS': ['AttackHook', 'FeatureCacheHook', 'SampleHook'],
    'LOOPS': ['RobustTestLoop', 'UniversalLoop'],
    'METRICS': ['DenoisingLoss'],
    'MODELS': [
        'AttentionClsHead',
        'DiffusionUNet',
        'DiffusionFPN',
        'DiffusionPretrainer',
        'PooledLinearClsHead',
    ],
    'OBJECTIVES': ['DLR', 'Detections', 'Lagrange'],
    'TRANSFORMS': ['Corrupt'],
}

# Registries of the project itself.
OURS = ('ATTACKS', 'OBJECTIVES')


@pytest.mark.parametrize('registry', NAMES)
def test_components_are_found_in_a_fresh_process(registry):
    """Nothing else of mmdiff was imported before, as in mmdet's own tools."""
    code = f'from mmdiff.registry import {registry} as R\n'
    if registry not in OURS:  # by the scope, from mmdet's registry
        code = f'from mmengine.registry import {registry} as R\n'
    for name in NAMES[registry]:
        full = name if registry in OURS else f'mmdiff.{name}'
        code += f'assert R.get({full!r}).__name__ == {name!r}, {name!r}\n'
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
