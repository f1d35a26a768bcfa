"""The generated demo set."""

import xml.etree.ElementTree as ET

import cv2
import numpy as np
import pytest

from mmdiff.datasets.toy_shapes import (
    CLASSES,
    LARGE_SHAPES,
    SMALL_SHAPES,
    draw_scene,
    make_toy_voc,
)


def test_the_same_seed_gives_the_same_files(tmp_path):
    folders = [
        make_toy_voc(tmp_path / name, 3, 2, size=64, seed=seed)
        for name, seed in (('a', 0), ('b', 0), ('c', 1))
    ]
    files = [
        {p.relative_to(f): p.read_bytes() for p in f.rglob('*.*') if p.is_file()}
        for f in folders
    ]
    assert files[0] == files[1]
    assert files[0].keys() == files[2].keys() and files[0] != files[2]
    assert len(list((folders[0] / 'JPEGImages').iterdir())) == 5
    listing = folders[0] / 'ImageSets' / 'Main' / 'train.txt'
    assert len(listing.read_text().split()) == 3


@pytest.mark.parametrize('style', [LARGE_SHAPES, SMALL_SHAPES])
def test_boxes_hold_what_is_drawn(style):
    """Several objects of every class, in boxes whose content differs from outside."""
    names, counts = set(), []
    for seed in range(40):
        image, objects = draw_scene(np.random.default_rng(seed), style=style)
        assert image.shape == (128, 128, 3) and image.dtype == np.uint8
        counts.append(len(objects))
        for name, (x1, y1, x2, y2) in objects:
            names.add(name)
            assert 0 <= x1 < x2 <= 128 and 0 <= y1 < y2 <= 128
            assert 0.4 < (x2 - x1) / (y2 - y1) < 2.5
    assert names == set(CLASSES) and len(CLASSES) >= 5
    assert 2 <= np.mean(counts) <= 5


def test_annotations_count_pixels_from_one(tmp_path):
    folder = make_toy_voc(tmp_path / 'toy', 1, 1, size=64)
    root = ET.parse(folder / 'Annotations' / 'train_00000.xml').getroot()
    _, objects = draw_scene(np.random.default_rng([0, 0, 0]), 64)
    found = [
        tuple(int(box.find(k).text) - 1 for k in ('xmin', 'ymin', 'xmax', 'ymax'))
        for box in root.iter('bndbox')
    ]
    assert found == [box for _, box in objects]
    image = cv2.imread(str(folder / 'JPEGImages' / 'train_00000.jpg'))
    assert image.shape == (64, 64, 3)


def test_a_set_of_other_arguments_is_never_written_over(tmp_path):
    out = tmp_path / 'toy'
    make_toy_voc(out, 2, 1, size=64)
    before = (out / 'toy_voc.txt').stat().st_mtime_ns
    make_toy_voc(out, 2, 1, size=64)  # the same: kept
    assert (out / 'toy_voc.txt').stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match='not a toy set of these arguments'):
        make_toy_voc(out, 3, 1, size=64)
    with pytest.raises(ValueError, match='size=16'):
        make_toy_voc(tmp_path / 'other', 2, 1, size=16)
    assert not (tmp_path / 'other').exists()
