"""The generated set of classes, and class folders of any set."""

import runpy
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmdiff.datasets.toy_classes import ONE_SHAPE, make_toy_classes
from mmdiff.datasets.toy_shapes import CLASSES, draw_scene, draw_shape

ROOT = Path(__file__).parents[2]


def test_every_class_has_as_many_images_and_the_seed_gives_their_content(tmp_path):
    folders = [
        make_toy_classes(tmp_path / name, 13, 6, seed=seed)
        for name, seed in (('a', 0), ('b', 0), ('c', 1))
    ]
    files = [
        {p.relative_to(f): p.read_bytes() for p in f.rglob('*.png')} for f in folders
    ]
    assert files[0] == files[1] and files[0].keys() == files[2].keys()
    assert all(files[0][name] != files[2][name] for name in files[0])
    assert len(set(files[0].values())) == 19  # no two images are the same
    counts = [len(list((folders[0] / 'train' / c).iterdir())) for c in CLASSES]
    assert counts == [3, 2, 2, 2, 2, 2]
    image = cv2.imread(str(folders[0] / 'val' / 'ring' / 'val_00004.png'))
    assert image.shape == (64, 64, 3)


@pytest.mark.parametrize('name', CLASSES)
def test_the_label_is_the_shape_that_is_drawn(name, monkeypatch):
    """Its pixels are those that the outline covers, and none else differ."""
    covers = []
    coverage = draw_shape.__globals__['_coverage']

    def remember(*args):
        covers.append((args[0], coverage(*args)))
        return covers[-1][1]

    monkeypatch.setitem(draw_shape.__globals__, '_coverage', remember)
    image = draw_shape(np.random.default_rng(0), name, 64, ONE_SHAPE)
    ((drawn, cover),) = covers
    assert drawn == name and image.dtype == np.uint8
    assert 0.05 < cover.mean() < 0.7
    background = draw_shape.__globals__['_texture'](np.random.default_rng(0), 64, 60)
    apart = np.abs(image - background).max(-1)
    assert np.median(apart[cover == 1]) > 3 * np.median(apart[cover == 0])


def test_the_detection_set_is_as_it_was():
    """Its images are drawn by the same random numbers as before there were classes."""
    image, objects = draw_scene(np.random.default_rng([0, 0, 0]), 64)
    assert objects == [('star', (1, 29, 33, 59)), ('disk', (21, 13, 51, 43))]
    assert image.mean() == pytest.approx(143.9707, abs=0.001)


def test_a_set_of_other_arguments_is_never_written_over(tmp_path):
    out = tmp_path / 'toy'
    make_toy_classes(out, 6, 6, size=32)
    before = (out / 'toy_classes.txt').stat().st_mtime_ns
    make_toy_classes(out, 6, 6, size=32)  # the same: kept
    assert (out / 'toy_classes.txt').stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match='not a toy set of these arguments'):
        make_toy_classes(out, 7, 6, size=32)
    with pytest.raises(ValueError, match='each of its 6 classes.*num_val=5'):
        make_toy_classes(tmp_path / 'other', 6, 5)
    file = tmp_path / 'file'
    file.write_text('mine')
    with pytest.raises(FileExistsError, match='choose another folder'):
        make_toy_classes(file, 6, 6)
    assert not (tmp_path / 'other').exists() and file.read_text() == 'mine'


def test_the_command_line_makes_the_set(tmp_path, monkeypatch, capsys):
    main = runpy.run_path(str(ROOT / 'tools' / 'make_toy_classes.py'))['main']
    argv = ['make_toy_classes.py', '--out', str(tmp_path / 'toy'), '--size', '32']
    argv += ['--num-train', '6', '--num-val', '6']
    monkeypatch.setattr(sys, 'argv', argv)
    main()
    assert '6 training and 6 validation images' in capsys.readouterr().out
    monkeypatch.setattr(sys, 'argv', [*argv, '--seed', '1'])
    with pytest.raises(SystemExit):
        main()
    assert 'is not a toy set of these arguments' in capsys.readouterr().err


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    return make_toy_classes(tmp_path_factory.mktemp('data') / 'toy', 12, 6, size=32)


def read(root, classes=CLASSES, split='train'):
    pytest.importorskip('mmpretrain')
    from mmdiff.datasets.class_folders import ClassFolders

    return ClassFolders(classes, data_root=str(root), data_prefix=split)


def test_classes_have_the_numbers_of_their_names_and_take_turns(toy):
    data = read(toy)
    assert data.metainfo['classes'] == CLASSES and len(data) == 12
    labels = [data.get_data_info(i)['gt_label'] for i in range(12)]
    assert labels == [*range(6), *range(6)]
    for i in range(12):
        info = data.get_data_info(i)
        assert Path(info['img_path']).parent.name == CLASSES[info['gt_label']]
    backwards = read(toy, CLASSES[::-1])
    paths = [backwards.get_data_info(i)['img_path'] for i in range(6)]
    assert [Path(path).parent.name for path in paths] == [*CLASSES[::-1]]


def test_folders_that_are_incomplete_are_one_sentence(toy, tmp_path):
    with pytest.raises(ValueError, match='val has no images of disk, square, triangle'):
        read(tmp_path / 'nowhere', split='val')
    broken = tmp_path / 'broken'
    shutil.copytree(toy, broken)
    (broken / 'train' / '.cache').mkdir()
    assert len(read(broken)) == 12
    shutil.rmtree(broken / 'train' / 'star')
    with pytest.raises(ValueError, match='train has no images of star; give every'):
        read(broken)
    (broken / 'train' / 'star').mkdir()  # empty
    with pytest.raises(ValueError, match='has no images of star;'):
        read(broken)
    (broken / 'val' / 'stern').mkdir()
    with pytest.raises(ValueError, match='the folder stern, which is none of the 6'):
        read(broken, split='val')
