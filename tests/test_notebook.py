"""The notebook of the examples runs from its first cell to its last."""

import json
import sys
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

from mmdiff.datasets.toy_shapes import make_toy_voc

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / 'examples' / 'attack_your_detector.ipynb'
CONFIG = ROOT / 'configs/detection/faster-rcnn_toy-unet_dfpn_1xb4-2e_toy-voc.py'


def outputs_of(notebook) -> list:
    cells = [cell for cell in notebook.cells if cell.cell_type == 'code']
    return [output for cell in cells for output in cell.outputs]


def test_the_notebook_is_kept_without_outputs():
    notebook = json.loads(NOTEBOOK.read_text())
    for cell in notebook['cells']:
        assert not cell.get('outputs') and cell.get('execution_count') is None


@pytest.mark.slow
def test_the_notebook_attacks_a_detector(tmp_path, monkeypatch):
    nbformat = pytest.importorskip('nbformat')
    nbclient = pytest.importorskip('nbclient')
    pytest.importorskip('ipykernel')
    data = make_toy_voc(tmp_path / 'toy', 2, 2)
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(CONFIG).model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'random.pth')
    work_dir = tmp_path / 'work'
    settings = dict(
        CONFIG=CONFIG,
        CHECKPOINT=tmp_path / 'random.pth',
        DATA_ROOT=f'{data}/',
        WORK_DIR=work_dir,
        NUM_IMAGES=2,
        EPS='8',
        STEPS=1,
    )
    for name, value in settings.items():
        monkeypatch.setenv(f'MMDIFF_{name}', str(value))
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    # The kernel of this interpreter, whatever kernels the user has.
    notebook.metadata.kernelspec.name = 'python3'
    client = nbclient.NotebookClient(
        notebook, timeout=900, resources=dict(metadata=dict(path=str(NOTEBOOK.parent)))
    )
    client.create_kernel_manager()
    spec = client.km.kernel_spec
    spec.argv[0] = sys.executable
    client.execute()
    outputs = outputs_of(notebook)
    text = ''.join(out.get('text', '') for out in outputs if 'text' in out)
    assert 'clean ' in text and 'pgd_total' in text and 'at 8/255' in text
    shown = [out for out in outputs if 'image/png' in out.get('data', {})]
    assert len(shown) == 2
    assert '<table' in (work_dir / 'report.html').read_text()
