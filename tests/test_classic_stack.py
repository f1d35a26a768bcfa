"""The classic packages (mmdet 3.3 on torch 2.1), where they are installed beside."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / '.venv-openmmlab' / 'bin' / 'python'


@pytest.mark.slow
@pytest.mark.skipif(
    not (ROOT / '.venv-openmmlab' / 'mmdiff-setup').exists(),
    reason='there is no .venv-openmmlab: STACK=openmmlab bash tools/setup_env.sh',
)
@pytest.mark.skipif(sys.prefix == str(PYTHON.parents[1]), reason='it is this stack')
def test_a_detector_of_the_classic_stack_trains_and_is_attacked():
    command = [str(PYTHON), '-m', 'pytest', '-q', '-o', 'addopts=']
    tests = ['tests/test_registry.py', 'tests/test_configs.py']
    chosen = 'test_registry or (trains_and_is_attacked and retinanet)'
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(
        [*command, *tests, '-k', chosen],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert ' passed' in done.stdout and 'failed' not in done.stdout
