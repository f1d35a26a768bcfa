"""Priors work where torch, torchvision and diffusers are all there is."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys

BLOCKED = 'mmengine', 'mmcv', 'mmdet', 'mmpretrain'


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in BLOCKED:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)


sys.meta_path.insert(0, Blocker())

import torch

import mmdiff
from mmdiff.diffusion import DiffusionModel, generate_images, sample_grid

unet = dict(
    type='UNet2DModel',
    sample_size=16,
    block_out_channels=(4, 8),
    down_block_types=('DownBlock2D',) * 2,
    up_block_types=('UpBlock2D',) * 2,
    norm_num_groups=2,
)
edm = dict(
    type='EDMPrecond',
    img_resolution=16,
    img_channels=3,
    model_type='SongUNet',
    model_channels=8,
    channel_mult=(1, 2),
    num_blocks=1,
)
for source, time in ((unet, 10), (edm, 0.5)):
    model = mmdiff.DiffusionModel.from_pretrained(source)
    assert isinstance(model, DiffusionModel)
    assert model.sample((1, 16, 16), steps=2).shape == (1, 3, 16, 16)
    assert sample_grid(model, 2, steps=1).shape == (16, 32, 3)
    model.requires_grad_(False)
    x = torch.randn(1, 3, 16, 16, requires_grad=True)
    (feature,) = model.features(x, time, ['mid']).values()
    (gradient,) = torch.autograd.grad(feature.square().sum(), x)
    assert gradient.abs().max() > 0
generate_images(model, 1, sys.argv[1], steps=1)
shipped = DiffusionModel.from_pretrained('mmdiff::toy_voc')
assert shipped.features(torch.zeros(1, 3, 32, 32), 10, [0])
loaded = sorted({name.split('.')[0] for name in sys.modules} & set(BLOCKED))
assert not loaded, loaded
print('done')
"""


def test_priors_sample_and_give_features_without_any_mm_package(tmp_path):
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT, str(tmp_path / 'images')],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1'),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith('done\n')
    assert (tmp_path / 'images' / '000000.png').is_file()


def test_no_module_of_priors_imports_what_is_built_on_them():
    """Not even lazily: the words of the import statements say so."""
    for file in (ROOT / 'mmdiff' / 'diffusion').rglob('*.py'):
        for line in file.read_text().splitlines():
            words = line.split()
            if len(words) > 1 and words[0] in ('import', 'from'):
                imported = words[1].lstrip('.').split('.')[0]
                assert not imported.startswith('mm') or '>>>' in line, (file, line)
                assert imported not in ('registry', 'models', 'engine'), (file, line)
