"""What cannot train is refused by tools/train.py in one sentence, before any work."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_UNET

from mmdiff import PGD
from mmdiff.models import MadryLoss

pytest.importorskip('mmpretrain')

TRAIN = Path(__file__).parents[1] / 'tools' / 'train.py'
CLASSIFIER = dict(
    type='ImageClassifier',
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True),
    backbone=dict(type='ResNet_CIFAR', depth=18, stem_channels=4, base_channels=4),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=32),
)
ATTACK = dict(type='mmdiff.PGD', eps=8, steps=1)
ADVERSARIAL = dict(type='mmdiff.AdversarialModel', model=CLASSIFIER, attack=ATTACK)
ALIGNED = dict(
    type='mmdiff.AlignedModel',
    model=ADVERSARIAL,
    prior=dict(model=TINY_UNET, timestep=10, out_indices=('mid',)),
    alignment=dict(in_channels=32, hidden_channels=8),
)
VALIDATION = dict(
    type='mmdiff.AttackHook',
    attack=dict(type='mmdiff.PGD', eps=8, steps=1),
    stages=('val',),
)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Eight images of two classes: labelled, without labels, and smaller ones."""
    folder = tmp_path_factory.mktemp('data')
    draw = np.random.default_rng(0)
    for size, name in ((32, 'images'), (2, 'small')):
        image = draw.integers(256, size=(8, size, size, 3), dtype=np.uint8)
        np.savez(folder / f'{name}.npz', image=image, label=np.arange(8) % 2)
    np.savez(folder / 'unlabelled.npz', image=image)
    return folder


def images(root, name='images'):
    return dict(
        type='mmdiff.GeneratedDataset',
        data_root=str(root / f'{name}.npz'),
        pipeline=[dict(type='mmpretrain.PackInputs')],
        metainfo=dict(classes=('a', 'b')),
    )


def config(data, model=ADVERSARIAL, **settings):
    """A training of one epoch, and its validation; settings replace what is here."""
    sampler = dict(type='DefaultSampler', shuffle=True)
    loader = dict(batch_size=4, num_workers=0, sampler=sampler)
    given = dict(
        default_scope='mmpretrain',
        custom_imports=dict(imports=['mmdiff'], allow_failed_imports=False),
        model=model,
        train_dataloader=dict(dataset=images(data), **loader),
        val_dataloader=dict(dataset=images(data), **loader),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        val_cfg=dict(),
        val_evaluator=dict(type='Accuracy', topk=(1,)),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01)),
        randomness=dict(seed=0),
    )
    return {**given, **settings}


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Run the tool on a config, and return what it says when it stops."""

    def run(cfg, *flags):
        # Else by the second: two runs within one would share their scope.
        cfg['experiment_name'] = str(tmp_path)
        file = tmp_path / 'cfg.py'
        file.write_text('\n'.join(f'{key} = {value!r}' for key, value in cfg.items()))
        arguments = [
            'train.py',
            str(file),
            '--work-dir',
            str(tmp_path / 'work'),
            *flags,
        ]
        monkeypatch.setattr(sys, 'argv', arguments)
        runpy.run_path(str(TRAIN), run_name='__main__')

    return run


def test_free_at_trains_beside_a_hook_that_attacks_validation(train, data, tmp_path):
    loss = dict(type='mmdiff.FreeATLoss', replays=2)
    train(config(data, dict(ADVERSARIAL, loss=loss), custom_hooks=[VALIDATION]))
    assert (tmp_path / 'work' / 'epoch_1.pth').is_file()


def test_an_average_of_weights_has_no_prior_in_it(train, data, tmp_path):
    train(config(data, ALIGNED, custom_hooks=[dict(type='EMAHook')]))
    import torch

    saved = torch.load(tmp_path / 'work' / 'epoch_1.pth', weights_only=False)
    for part in ('state_dict', 'ema_state_dict'):
        kinds = {name.removeprefix('module.').split('.')[0] for name in saved[part]}
        assert kinds <= {'backbone', 'head', 'alignment', 'steps'}


def mixed(data, ratio):
    dataset = dict(
        type='mmdiff.MixedDataset', real=images(data), generated=images(data)
    )
    sampler = dict(type='mmdiff.MixedBatchSampler', real_ratio=ratio)
    return dict(dataset=dataset, batch_sampler=sampler)


def with_prior(**settings):
    return dict(ALIGNED, prior=dict(ALIGNED['prior'], **settings))


def with_alignment(**settings):
    return dict(ALIGNED, alignment=dict(ALIGNED['alignment'], **settings))


MISTAKES = {
    'projector': (
        lambda d: dict(model=with_alignment(in_channels=31)),
        'gives 32 channels and the projector takes 31; set in_channels=32',
    ),
    'stride': (
        lambda d: dict(
            model=ALIGNED, train_dataloader=dict(dataset=images(d, 'small'))
        ),
        'has the stride 4 and an image is 2x2',
    ),
    'lambda': (
        lambda d: dict(model=with_alignment(loss_weight=-1)),
        'loss_weight (lambda)=-1 must be a number of at least 0',
    ),
    'labels': (
        lambda d: dict(train_dataloader=dict(dataset=images(d, 'unlabelled'))),
        'has no image and label; draw them by tools/sample_images.py',
    ),
    'attack': (
        lambda d: dict(model=dict(ADVERSARIAL, attack=dict(type='mmdiff.DAG'))),
        'DAG attacks the boxes of detectors',
    ),
    'ratio': (
        lambda d: dict(train_dataloader=mixed(d, 1.5)),
        'real_ratio=1.5 is no share',
    ),
    'prior': (
        lambda d: dict(model=with_prior(frozen=False)),
        'The prior of an alignment is frozen',
    ),
    'module': (
        lambda d: dict(model=dict(ALIGNED, layer='trunk')),
        "layer='trunk' is no module",
    ),
    'setting': (
        lambda d: dict(model=dict(ADVERSARIAL, attak={})),
        "unexpected keyword argument 'attak'",
    ),
    'type': (
        lambda d: dict(model=dict(ADVERSARIAL, attack=dict(type='mmdiff.PDG'))),
        'PDG is not in the mmdiff::attack registry',
    ),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_a_mistake_is_a_sentence_before_any_attack(name, train, data, monkeypatch):
    change, words = MISTAKES[name]
    cfg = config(data)
    for key, value in change(data).items():
        cfg[key] = {**cfg[key], **value} if key == 'train_dataloader' else value
    for owner, method in ((PGD, 'run_on'), (MadryLoss, 'forward')):
        monkeypatch.setattr(owner, method, lambda *args, **kwargs: 1 / 0)
    with pytest.raises(SystemExit) as stopped:
        train(cfg)
    said = str(stopped.value)
    assert said.startswith('train.py: ') and words in said and '\n' not in said


def test_a_fault_keeps_its_traceback(train, data, monkeypatch):
    monkeypatch.setattr(MadryLoss, 'forward', lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(config(data))


@pytest.mark.parametrize('flags', [['--resume'], ['--resume', 'auto']])
def test_resume_without_anything_to_resume_starts_from_the_weights(
    train, data, tmp_path, flags, capsys
):
    """mmengine alone would forget load_from, and train from random weights."""
    import torch

    still = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.0))
    train(config(data, optim_wrapper=still))
    first = tmp_path / 'work' / 'epoch_1.pth'
    weights = tmp_path / 'weights.pth'
    first.rename(weights)
    (tmp_path / 'work' / 'last_checkpoint').unlink()
    cfg = config(data, load_from=str(weights), optim_wrapper=still)
    cfg.update(randomness=dict(seed=1), train_cfg=dict(by_epoch=True, max_epochs=2))
    train(cfg, *flags)
    assert 'nothing to resume' in capsys.readouterr().out
    name = 'head.fc.weight'
    before = torch.load(weights, weights_only=False)['state_dict'][name]
    after = torch.load(tmp_path / 'work' / 'epoch_2.pth', weights_only=False)
    assert torch.equal(after['state_dict'][name], before)
    # Now there is something.
    cfg['train_cfg'] = dict(by_epoch=True, max_epochs=3)
    train(cfg, *flags)
    assert 'nothing to resume' not in capsys.readouterr().out
    assert (tmp_path / 'work' / 'epoch_3.pth').is_file()


@pytest.mark.parametrize(
    'resume', [['--resume'], ['--resume', 'auto'], ['--resume=auto']]
)
def test_no_other_word_of_the_command_line_is_lost(data, tmp_path, resume):
    without = runpy.run_path(str(TRAIN))['without_idle_resume']
    cfg = tmp_path / 'cfg.py'
    cfg.write_text('x = 1')
    for words in (
        ['--launcher', 'none', str(cfg)],
        [str(cfg), '--work-dir', 'auto'],
        [str(cfg), '--cfg-options', 'x=auto'],
    ):
        assert without([*words, *resume]) == words
    for kept in (['--resume', 'auto.pth'], ['--resume=a.pth'], []):
        assert without([str(cfg), *kept]) == [str(cfg), *kept]
