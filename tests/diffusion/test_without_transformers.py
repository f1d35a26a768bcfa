"""All but the embedding of a new prompt works where transformers is not installed.

Newer versions of diffusers ask for a client of the hub that transformers 4 refuses.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_latent import CONFIG, load

ROOT = Path(__file__).parents[2]
SCRIPT = """
import importlib.machinery
import importlib.util
import sys


class Hider(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.split('.')[0] != 'transformers':
            return super().find_spec(name, path, target)


finders = sys.meta_path
finders[finders.index(importlib.machinery.PathFinder)] = Hider
assert importlib.util.find_spec('transformers') is None

import torch

from mmdiff import PGD, DiffusionModel

pixel = DiffusionModel.from_pretrained('mmdiff::toy_voc')
assert pixel.sample((1, 32, 32), steps=1).isfinite().all()

folder = sys.argv[1]
latent = DiffusionModel.from_pretrained(folder, prompt='a cat')
assert latent.features(torch.zeros(1, 4, 8, 8), 10, ['mid'])['mid'].isfinite().all()
try:
    DiffusionModel.from_pretrained(folder, prompt='a dog')
except (FileNotFoundError, ImportError) as error:
    print(str(error))

import mmdiff.registry
from conftest import batch_of, detector_config, run
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules

register_all_modules()
model = MODELS.build(detector_config('retinanet', 'diffusion')).eval()
result = run(PGD(eps=4, steps=1), model, batch_of([(3, 64, 64)]))
assert result.stats.changed == 1
assert 'transformers' not in sys.modules
print('done')
"""


@pytest.fixture
def folder(tmp_path):
    """A pipeline that has the embedding of one prompt, and files of an encoder."""
    load(CONFIG, prompt='a cat').save_pretrained(tmp_path / 'sd')
    for name in ('text_encoder', 'tokenizer'):
        (tmp_path / 'sd' / name).mkdir()
        config = tmp_path / 'sd' / name / 'config.json'
        config.write_text('{"architectures": ["CLIPTextModel"]}')
    (tmp_path / 'sd' / 'text_encoder' / 'model.safetensors').write_bytes(b'')
    return tmp_path / 'sd'


def test_priors_detectors_and_attacks_run_and_a_new_prompt_says_what_to_install(
    folder, tmp_path
):
    paths = (ROOT, ROOT / 'tests')
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT, str(folder)],
        cwd=tmp_path,
        env=dict(
            os.environ,
            PYTHONPATH=os.pathsep.join(map(str, paths)),
            OMP_NUM_THREADS='1',
            XDG_CACHE_HOME=str(tmp_path),
        ),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-1500:]
    lines = done.stdout.splitlines()
    assert lines[-1] == 'done'
    (sentence,) = (line for line in lines if line.startswith("The prompt 'a dog'"))
    assert 'has to be embedded once, which needs transformers' in sentence
    assert "pip install 'mmdiff[sd]'" in sentence
    assert 'prompt embeddings' in sentence
