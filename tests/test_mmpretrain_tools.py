"""mmpretrain's own tools train, test and apply the configs as they are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mmcv
import pytest
import torch
from mmengine.registry import DefaultScope

from mmdiff.datasets.toy_classes import make_toy_classes
from mmdiff.datasets.toy_shapes import CLASSES

mmpretrain = pytest.importorskip('mmpretrain', reason='mmpretrain is not installed')

ROOT = Path(__file__).parents[1]
THEIRS = Path(mmpretrain.__file__).parent / '.mim' / 'tools'
CONFIG = ROOT / 'configs/classification/toy-unet_attention-head_1xb32-5e_toy-classes.py'

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    return make_toy_classes(tmp_path_factory.mktemp('data') / 'toy', 12, 6)


def run(*args, toy):
    """Run a tool where nothing of the project is but the package."""
    loaders = ('train', 'val', 'test')
    options = [f'{s}_dataloader.dataset.data_root={toy}' for s in loaders]
    for split in loaders:
        options.append(f'{split}_dataloader.num_workers=0')
        options.append(f'{split}_dataloader.persistent_workers=False')
    env = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))
    command = [*args, '--cfg-options', 'train_cfg.max_epochs=1', *options]
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=toy,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done


@pytest.fixture(scope='module')
def checkpoint(toy, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('work')
    run(THEIRS / 'train.py', CONFIG, '--work-dir', work_dir, toy=toy)
    return work_dir / 'epoch_1.pth'


def test_checkpoints_hold_the_head_alone(checkpoint):
    state = torch.load(checkpoint, weights_only=False)  # ours
    names = set(state['state_dict'])
    assert {name for name in names if not name.startswith('head.')} == {
        'backbone.fingerprint'
    }
    assert 'head.fc.weight' in names
    assert state['meta']['dataset_meta']['classes'] == CLASSES


def test_their_test_and_ours_find_the_same_accuracy(checkpoint, toy, tmp_path):
    found = tmp_path / 'metrics.json'
    command = [THEIRS / 'test.py', CONFIG, checkpoint, '--work-dir', tmp_path]
    run(*command, '--out', found, '--out-item', 'metrics', toy=toy)
    theirs = json.loads(found.read_text())['accuracy/top1']
    flags = ['--attack', 'pgd', '--eps', '4', '--steps', '1', '--work-dir', tmp_path]
    run(ROOT / 'tools' / 'test.py', CONFIG, checkpoint, *flags, toy=toy)
    report = json.loads((tmp_path / 'robustness.json').read_text())
    clean, attacked = (row['metrics']['accuracy/top1'] for row in report['results'])
    assert clean == theirs and attacked <= clean
    assert report['cost']['train_seconds'] > 0  # as the checkpoint tells


def test_their_inferencer_gives_the_classes_of_files(checkpoint, toy):
    from mmpretrain import ImageClassificationInferencer

    # In a process of its own its scope is mmpretrain; the tests' is mmdet.
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        inferencer = ImageClassificationInferencer(str(CONFIG), str(checkpoint), 'cpu')
    files = sorted(str(path) for path in (toy / 'val').glob('*/*.png'))
    results = inferencer(files, batch_size=3)
    assert len(results) == 6 and all(r['pred_class'] in CLASSES for r in results)
    # The same as through preprocessor and model by hand: images are BGR.
    image = mmcv.imread(files[0])
    data = dict(inputs=[torch.from_numpy(image).permute(2, 0, 1)])
    model = inferencer.model
    with torch.no_grad():
        inputs = model.data_preprocessor(data)['inputs']
        logits = model(inputs, mode='tensor')
    red = image[0, 0, 2]  # it comes first behind the preprocessor
    assert inputs[0, 0, 0, 0].item() == pytest.approx(red / 127.5 - 1, abs=1e-5)
    scores = torch.from_numpy(results[0]['pred_scores'])
    assert torch.allclose(scores, logits.softmax(1)[0], atol=1e-5)
