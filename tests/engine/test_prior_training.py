"""The tool that distils: trains, resumes, and exports a source."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_UNET
from PIL import Image

from mmdiff import DiffusionModel
from mmdiff.diffusion.multihead import MultiHeadDiffusionModel
from mmdiff.models import MultiHeadDistiller

pytest.importorskip('mmpretrain')
ROOT = Path(__file__).parents[2]
CONFIG = 'configs/distillation/unet-patch2-multihead_1xb64-10000it_cifar10.py'


@pytest.fixture
def teacher(tmp_path):
    torch.manual_seed(0)
    source = {**TINY_UNET, 'num_class_embeds': 4, 'null_class': 3}
    DiffusionModel.from_pretrained(source).save_pretrained(tmp_path / 'teacher')
    return tmp_path / 'teacher'


@pytest.fixture
def options(tmp_path):
    """Options for six images in class folders, and no worker."""
    generator = np.random.default_rng(0)
    for split in ('train', 'minitest'):
        for name in 'abc':
            (tmp_path / 'data' / split / name).mkdir(parents=True)
            pixels = generator.integers(256, size=(32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / 'data' / split / name / '0.png')
    loaders = [
        f'{split}_dataloader.{option}'
        for split in ('train', 'val')
        for option in (
            f'dataset.data_root={tmp_path / "data"}',
            'batch_size=2',
            'num_workers=0',
            'persistent_workers=False',
        )
    ]
    return [
        '--cfg-options',
        *loaders,
        'val_dataloader.dataset.indices=3',
        'default_hooks.checkpoint.interval=1',
        'train_cfg.val_interval=2',
    ]


@pytest.mark.slow
def test_distillation_resumes_and_exports_a_source(
    tmp_path, teacher, options, monkeypatch
):
    main = runpy.run_path(str(ROOT / 'tools' / 'distill_multihead.py'))['main']
    monkeypatch.chdir(ROOT)
    steps, forward = [], MultiHeadDistiller.train_step
    monkeypatch.setattr(
        MultiHeadDistiller,
        'train_step',
        lambda *args, **kwargs: steps.append(1) or forward(*args, **kwargs),
    )
    out = tmp_path / 'heads'
    for flags, iters in (([], 2), (['--resume'], 3)):
        words = [CONFIG, '--teacher', teacher, '--work-dir', tmp_path / 'work']
        words += ['--out', out, '--num-samples', 2, *flags, *options]
        words += [f'train_cfg.max_iters={iters}', f'experiment_name=heads{iters}']
        monkeypatch.setattr(sys, 'argv', ['distill_multihead.py', *map(str, words)])
        main()
    assert len(steps) == 2 + 1
    prior = DiffusionModel.from_pretrained(out)
    assert type(prior) is MultiHeadDiffusionModel and prior.num_classes == 3
    assert json.loads((out / 'config.json').read_text())['num_class_heads'] == 4
    card = (out / 'README.md').read_text()
    assert (
        '3 steps of 2 images' in card and 'Held-out loss by noise level: t_83' in card
    )
    moved = prior.unet.conv_out.weight - torch.cat(
        [DiffusionModel.from_pretrained(teacher).unet.conv_out.weight] * 4
    )
    assert moved.abs().max() > 0


def test_a_teacher_without_classes_is_one_sentence(tmp_path, options, monkeypatch):
    main = runpy.run_path(str(ROOT / 'tools' / 'distill_multihead.py'))['main']
    monkeypatch.chdir(ROOT)
    words = [CONFIG, '--teacher', 'mmdiff::toy_voc', '--work-dir', str(tmp_path)]
    monkeypatch.setattr(sys, 'argv', ['distill_multihead.py', *words, *options])
    with pytest.raises(SystemExit, match='^distill_multihead.py: .*no table of class'):
        main()
