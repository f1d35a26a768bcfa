"""Images of a prior, chosen and labelled by a classifier."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmdiff.datasets import GeneratedDataset
from mmdiff.engine.image_filter import choose, filter_images
from mmdiff.engine.image_filter.classifier import Judge
from mmdiff.registry import MODELS

pytest.importorskip('mmpretrain')
from mmengine.model import BaseModule  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402

TOOL = str(Path(__file__).parents[2] / 'tools' / 'filter_images.py')
# Three classes: red, green and blue images. Mixed ones are less certain.
COUNT, SIDE = 12, 8


@MODELS.register_module(force=True)
class MeanColour(BaseModule):
    """Mean of each channel, (N, 3)."""

    def forward(self, x):
        return (x.mean((2, 3)),)


def model(num_classes=3):
    return dict(
        type='ImageClassifier',
        data_preprocessor=dict(mean=[0] * 3, std=[255] * 3, to_rgb=True),
        backbone=dict(type='mmdiff.MeanColour'),
        head=dict(type='LinearClsHead', num_classes=num_classes, in_channels=3),
    )


def write_classifier(folder, num_classes=3, loading=True):
    """Config and weights of a classifier of colours."""
    steps = [dict(type='LoadImageFromFile')] if loading else []
    dataset = dict(type='X', pipeline=[*steps, dict(type='PackInputs')])
    config = folder / f'cfg{num_classes}{loading}.py'
    config.write_text(
        f"default_scope = 'mmpretrain'\nmodel = {model(num_classes)!r}\n"
        f'test_dataloader = dict(dataset={dataset!r})\n'
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        built = MODELS.build(model(num_classes))
    built.head.fc.weight.data = 4 * torch.eye(num_classes, 3)
    built.head.fc.bias.data.zero_()
    state = {**built.state_dict(), 'alignment.projector.0.weight': torch.zeros(1)}
    torch.save(dict(state_dict=state), folder / f'{num_classes}.pth')
    return str(config), str(folder / f'{num_classes}.pth')


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """A set in folders and as .npz, and a classifier of its colours."""
    folder = tmp_path_factory.mktemp('world')
    labels = np.arange(COUNT) % 3
    images = np.zeros((COUNT, SIDE, SIDE, 3), np.uint8)
    for i, label in enumerate(labels):
        images[i, ..., label] = 255 - 10 * i  # less and less certain
        images[i, ..., (label + 1) % 3] = 40
    images[3, ..., 2] = 255  # of class 0, and it looks blue
    np.savez(folder / 'all.npz', image=images, label=labels)
    np.savez(folder / 'unlabelled.npz', image=images)
    for i, label in enumerate(labels):
        for path in (folder / 'all' / f'{label:02d}', folder / 'unlabelled'):
            path.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[i]).save(path / f'{i:06d}.png')
    return folder, *write_classifier(folder)


def read(path):
    """Numbers by the brightness of the images, and their classes."""
    data = GeneratedDataset(path, channel_order='rgb')
    return sorted((item['img'].tobytes(), item['gt_label']) for item in data)


@pytest.mark.parametrize('source, out', [('all', 'kept'), ('all.npz', 'kept.npz')])
def test_the_most_certain_of_each_class_are_kept_in_both_forms(
    source, out, world, tmp_path
):
    folder, config, weights = world
    choice = filter_images(folder / source, config, weights, tmp_path / out, keep=0.5)
    # In folders the images of a class come one after another.
    expected = [0, 2, 4, 5, 8, 9] if source == 'all' else [0, 1, 2, 4, 5, 6]
    assert choice.indices.tolist() == expected
    assert choice.drawn.tolist() == [4, 4, 4]
    assert choice.agreed.tolist() == [3, 4, 4]  # one of class 0 looks blue
    assert choice.kept.tolist() == [2, 2, 2]
    images, labels = (np.load(folder / 'all.npz')[k] for k in ('image', 'label'))
    numbers = (0, 1, 2, 4, 5, 6)
    wanted = sorted((images[i].tobytes(), int(labels[i])) for i in numbers)
    assert read(tmp_path / out) == wanted
    beside = 'kept/filter.json' if source == 'all' else 'kept.json'
    assert json.loads((tmp_path / beside).read_text())['kept'] == [2, 2, 2]
    assert not list(tmp_path.glob('*.answers'))
    every = filter_images(folder / source, config, weights, tmp_path / 'x', keep=1)
    assert every.kept.tolist() == [3, 4, 4]


@pytest.mark.parametrize('source', ['unlabelled', 'unlabelled.npz'])
def test_images_without_labels_get_those_of_the_classifier(source, world, tmp_path):
    folder, config, weights = world
    out = tmp_path / 'out.npz'
    choice = filter_images(folder / source, config, weights, out, keep=1)
    labels = np.load(folder / 'all.npz')['label']
    labels[3] = 2
    assert choice.labels.tolist() == labels.tolist()
    assert choice.kept.tolist() == [3, 4, 5]
    assert len(GeneratedDataset(out)) == COUNT
    with pytest.raises(ValueError, match='no classes of the prior'):
        filter_images(folder / source, config, weights, tmp_path / 'y', 1, 'prior')


def test_pixels_of_datasets_that_load_nothing_are_rgb(world, tmp_path):
    """As mmpretrain's CIFAR10, whose configs have to_rgb=False."""
    folder, _, weights = world
    config, _ = write_classifier(tmp_path, loading=False)
    text = Path(config).read_text().replace("'to_rgb': True", "'to_rgb': False")
    Path(config).write_text(text)
    choice = filter_images(folder / 'all', config, weights, tmp_path / 'out', keep=1)
    assert choice.agreed.tolist() == [3, 4, 4]


def test_a_run_that_was_killed_goes_on_and_gives_the_same(world, tmp_path, monkeypatch):
    folder, config, weights = world
    monkeypatch.setattr('mmdiff.engine.image_filter.classifier.CHUNK', 4)
    whole = filter_images(folder / 'all', config, weights, tmp_path / 'whole')
    ask, asked = Judge._ask, []

    def dies(self, numbers):
        asked.append(numbers.start)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return ask(self, numbers)

    monkeypatch.setattr(Judge, '_ask', dies)
    arguments = folder / 'all', config, weights, tmp_path / 'part'
    with pytest.raises(KeyboardInterrupt):
        filter_images(*arguments)
    assert not (tmp_path / 'part').exists()
    with pytest.raises(ValueError, match='answers about other images'):
        filter_images(folder / 'all.npz', *arguments[1:])
    again = filter_images(*arguments)
    assert asked == [0, 4, 4, 8]  # the first answers were kept
    assert again.indices.tolist() == whole.indices.tolist()
    assert read(tmp_path / 'part') == read(tmp_path / 'whole')


def test_of_equal_confidence_the_first_are_kept_and_one_at_least():
    labels = np.array([0] * 5 + [1])
    choice = choose(labels, labels, np.full(6, 0.5), 0.4, 2)
    assert choice.indices.tolist() == [0, 1, 5]
    assert '3 of 6 images kept, 1 to 2 of each of 2 classes' in choice.balance()


def test_what_cannot_be_filtered_is_one_sentence(world, tmp_path, monkeypatch, capsys):
    folder, config, weights = world
    other, others = write_classifier(tmp_path, num_classes=4)
    out = tmp_path / 'out'

    def stops(words, *flags, images='all', cfg=config, ckpt=weights):
        line = [TOOL, folder / images, cfg, ckpt, '--out', out, *flags]
        monkeypatch.setattr(sys, 'argv', [*map(str, line)])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(TOOL, run_name='__main__')
        said = str(stopped.value)
        assert words in said and said.startswith('filter_images.py: ')
        assert '\n' not in said and not out.exists()

    for share in ('0', '-0.5', '1.5', 'nan'):
        stops('is no share', '--keep', share)
    stops('There is no checkpoint none.pth', ckpt='none.pth')
    stops('There are no images at', images='nowhere')
    stops('classes 0 to 2 and the classifier tells 4', cfg=other, ckpt=others)
    stops('has not the weights of the classifier', ckpt=others)
    (tmp_path / 'no.py').write_text('model = dict(backbone=dict(), type="X")')
    stops('is not of a classifier', cfg=tmp_path / 'no.py')
    text = Path(config).read_text().split('test_dataloader')[0]
    (tmp_path / 'bare.py').write_text(text)
    stops('has no pipeline in test_dataloader', cfg=tmp_path / 'bare.py')
    swapped = torch.load(weights, weights_only=True)
    swapped['state_dict']['head.fc.weight'] = -swapped['state_dict']['head.fc.weight']
    torch.save(swapped, tmp_path / 'bad.pth')
    stops('Nothing would be kept of', ckpt=tmp_path / 'bad.pth')
    # What was classified is kept for another share.
    monkeypatch.setattr(
        sys, 'argv', [TOOL, str(folder / 'all'), config, weights, '--out', str(out)]
    )
    with pytest.raises(SystemExit, match='answers about other images'):
        runpy.run_path(TOOL, run_name='__main__')
    line = [TOOL, folder / 'all', config, weights, '--out', tmp_path / 'new']
    monkeypatch.setattr(sys, 'argv', [*map(str, line)])
    runpy.run_path(TOOL, run_name='__main__')
    said = ' '.join(capsys.readouterr().out.split())
    assert (
        '6 of 12 images kept, 2 to 2 of each of 3 classes (there were 4 to 4)' in said
    )
