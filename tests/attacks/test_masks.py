"""Masks: which pixels they leave, at every scale, and what is no mask."""

import math

import cv2
import numpy as np
import pytest
import torch
from conftest import batch_of
from mmdet.registry import TRANSFORMS

from mmdiff import PGD
from mmdiff.attacks import Budget, NotApplicable, oracle_of
from mmdiff.attacks.masks import Background, Boxes, FileMask, Rectangle, build_mask
from mmdiff.attacks.oracle.frame import Frame, Region
from mmdiff.engine.ground_truth import ground_truth_scale


@pytest.fixture
def retinanet(make_detector):
    return make_detector('retinanet', 'resnet')


# Scales of width and height differ; the image has room for padding.
PIPELINES = {
    'resize, load': (['resize', 'load'], 'original'),
    'load, resize': (['load', 'resize'], 'input'),
    'resize, flip, load': (['resize', 'flip', 'load'], 'original'),
    'load, resize, flip': (['load', 'resize', 'flip'], 'input'),
    'resize, pad, load': (['resize', 'pad', 'load'], 'original'),
    'load, resize, flip, pad': (['load', 'resize', 'flip', 'pad'], 'input'),
}
STEPS = {
    'resize': dict(type='Resize', scale=(90, 120), keep_ratio=False),
    'load': dict(type='LoadAnnotations', with_bbox=True),
    'flip': dict(type='RandomFlip', prob=1.0, direction='horizontal'),
    'pad': dict(type='Pad', size=(128, 128)),
}


@pytest.mark.parametrize('names', PIPELINES)
def test_boxes_lie_on_their_objects_whatever_the_pipeline_does(
    retinanet, tmp_path, names
):
    """Objects are white on black: the mask must be where white is."""
    image = np.zeros((40, 60, 3), np.uint8)
    boxes = [(6, 4, 18, 30), (40, 20, 54, 36)]
    for left, top, right, bottom in boxes:
        image[top:bottom, left:right] = 255
    path = tmp_path / 'image.png'
    cv2.imwrite(str(path), image)
    steps, scale = PIPELINES[names]
    keys = ('img_id', 'ori_shape', 'img_shape', 'scale_factor', 'flip')
    transforms = [
        TRANSFORMS.build(step)
        for step in (
            dict(type='LoadImageFromFile'),
            *(STEPS[step] for step in steps),
            dict(type='PackDetInputs', meta_keys=(*keys, 'flip_direction')),
        )
    ]
    dataset = type('Data', (), dict(pipeline=transforms))()
    assert ground_truth_scale(dataset) == scale
    results = dict(img_path=str(path), img_id=0, height=40, width=60)
    results['instances'] = [dict(bbox=b, bbox_label=0, ignore_flag=0) for b in boxes]
    for transform in transforms:
        results = transform(results)
    x = results['inputs']
    batch = dict(inputs=[x], data_samples=[results['data_samples']])
    white = x[0, :120, :90] > 127
    inside, outside = (
        PGD(mask=kind).gather(oracle_of(retinanet, scale), batch).masks[0]
        for kind in ('boxes', 'background')
    )
    assert inside.shape == white.shape == (120, 90)
    assert torch.equal(inside, white) and torch.equal(outside, ~white)
    (adv,) = PGD(steps=1, mask='background')(retinanet, batch, scale)
    padding = torch.ones(x.shape[1:], dtype=torch.bool)
    padding[:120, :90] = False
    same = (adv == x).all(0)
    assert same[padding].all() and same[:120, :90][white].all() and not same.all()


def frame_of(height=20, width=30, region=None):
    region = region or Region(0, 0, height, width)
    return Frame(torch.zeros(3, height, width), region)


def sample_of(boxes, ignored=()):
    sample = batch_of(num_items=(1,))['data_samples'][0]
    for key, values in (('gt_instances', boxes), ('ignored_instances', ignored)):
        instances = type(sample.gt_instances)()
        instances.bboxes = torch.tensor(values, dtype=torch.float32).reshape(-1, 4)
        setattr(sample, key, instances)
    return sample


def corners(mask):
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_boxes_grow_shrink_and_vanish():
    sample, frame = sample_of([[4, 5, 10, 12]]), frame_of()
    assert corners(Boxes().of(frame, sample)) == [4, 5, 10, 12]
    assert corners(Boxes(3).of(frame, sample)) == [1, 2, 13, 15]
    assert corners(Boxes(100).of(frame, sample)) == [0, 0, 30, 20]
    assert corners(Boxes(-2).of(frame, sample)) == [6, 7, 8, 10]
    assert not Boxes(-4).of(frame, sample).any()
    assert Background(3).of(frame, sample).sum() == 20 * 30 - 12 * 13


@pytest.mark.parametrize(
    'box', [(4.1, 5.1, 4.3, 5.2), (4.7, 5.6, 4.9, 5.9), (4, 5, 4, 5)]
)
def test_a_box_between_two_centres_has_its_pixel(box):
    mask = Boxes().of(frame_of(), sample_of([box]))
    assert corners(mask) == [4, 5, 5, 6]


def test_boxes_beyond_the_image_and_beside_its_padding():
    frame = frame_of(20, 30, Region(2, 4, 10, 12))
    # On the canvas; the image begins at (4, 2).
    mask = Boxes().of(frame, sample_of([[0, 0, 7, 6], [14, 10, 40, 40]]))
    assert mask.shape == (10, 12)
    assert mask[:4, :3].all() and mask[8:, 10:].all() and mask.sum() == 12 + 4
    assert not Boxes().of(frame, sample_of([[20, 0, 29, 20]])).any()


def test_ignored_objects_are_neither_attacked_nor_background():
    sample = sample_of([[0, 0, 5, 5]], [[10, 10, 15, 15]])
    boxes, rest = Boxes().of(frame_of(), sample), Background().of(frame_of(), sample)
    assert boxes.sum() == 25 and rest.sum() == 20 * 30 - 50


def test_a_rectangle_is_a_share_of_the_image_or_pixels_of_the_input():
    frame = frame_of(20, 30, Region(2, 4, 10, 12))
    share = Rectangle((0.5, 0, 1, 0.5)).of(frame, None)
    assert corners(share) == [6, 0, 12, 5]
    pixel = Rectangle((0, 0, 8, 4), 'pixel').of(frame, None)
    assert corners(pixel) == [0, 0, 4, 2]
    assert not Rectangle((0, 0, 4, 2), 'pixel').of(frame, None).any()
    # The thinnest share is a pixel.
    assert Rectangle((0.999, 0.999, 1, 1)).of(frame, None).sum() == 1


@pytest.mark.parametrize('name', ['mask.png', 'mask.npy', 'MASK.PNG'])
def test_a_mask_from_a_file_is_stretched_to_the_image(retinanet, tmp_path, name):
    pixels, path = np.zeros((4, 6), np.uint8), tmp_path / name
    pixels[1:3, :2] = 255
    np.save(path, pixels) if name.endswith('npy') else cv2.imwrite(str(path), pixels)
    mask = build_mask(str(path))
    assert (mask.of(frame_of(4, 6), None).numpy() == (pixels > 0)).all()
    stretched = mask.of(frame_of(20, 30, Region(0, 0, 8, 12)), None)
    assert corners(stretched) == [0, 2, 4, 6]
    batch = batch_of([(3, 64, 96)])
    (adv,) = PGD(steps=1, mask=str(path))(retinanet, batch)
    changed = (adv != batch['inputs'][0]).any(0)
    assert changed[16:48, :32].all() and changed.sum() == 32 * 32


def test_two_files_of_one_name_are_two_masks(tmp_path):
    names = []
    for folder in ('a', 'b'):
        (tmp_path / folder).mkdir()
        pixels = np.ones((4, 6), bool)
        pixels[0, 0] = folder == 'a'
        np.save(tmp_path / folder / 'mask.npy', pixels)
        names.append(str(FileMask(str(tmp_path / folder / 'mask.npy'))))
    assert names[0] != names[1] and names[0].startswith('file mask.npy ')


@pytest.mark.parametrize(
    'values, words',
    [
        (np.arange(6).reshape(2, 3), 'has 6 values; give two'),
        (np.array([[1, 2]]), 'has 2 values; give two'),
        (np.zeros((2, 3)), 'is 0 everywhere: no pixel may change'),
        (np.ones((2, 3, 3)), 'one number for each pixel'),
        (np.array([[np.nan, 0.0]]), 'one number for each pixel'),
        (np.array([[None, 0]], object), 'cannot be read'),
        (None, 'cannot be read'),
    ],
)
def test_a_file_that_is_no_mask_is_one_sentence(tmp_path, values, words):
    path = tmp_path / 'mask.npy'
    path.write_bytes(b'') if values is None else np.save(path, values)
    with pytest.raises(ValueError, match=words) as error:
        PGD(mask=str(path))
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'shape, words', [((4, 6, 3), 'it has colours'), ((4, 6, 4), 'it has transparency')]
)
def test_a_picture_with_more_than_grey_is_one_sentence(tmp_path, shape, words):
    pixels, path = np.zeros(shape, np.uint8), tmp_path / 'mask.png'
    pixels[0, 0, 0] = 255
    cv2.imwrite(str(path), pixels)
    with pytest.raises(ValueError, match=words):
        PGD(mask=str(path))
    path.write_bytes(b'no picture')
    with pytest.raises(ValueError, match='cannot be read'):
        PGD(mask=str(path))


@pytest.mark.parametrize(
    'mask, words',
    [
        ('box', "mask='box' is unknown; take 'boxes', 'background'"),
        (3, 'mask=3 is unknown'),
        ((0, 0, 1), r'mask=\(0, 0, 1\) is unknown'),
        (dict(grow=2), 'has no type of a mask; choose from'),
        (dict(type='PGD'), 'has no type of a mask; choose from'),
        (dict(type=PGD), 'has no type of a mask; choose from'),
        (dict(type='boxes', grown=2), 'cannot be built: .*grown'),
        (dict(type='boxes', grow='a'), "grow='a' must be a number"),
        (dict(type='boxes', grow=math.nan), 'grow=nan must be a number'),
        ((0, 0, 64, 64), "for pixels of the input add unit='pixel'"),
        ((0.5, 0, 0.5, 1), 'left < right and top < bottom'),
        (('a', 0, 1, 1), 'left < right and top < bottom'),
        (dict(type='rectangle', box=(0, 0, 1, 1), unit='em'), "unit='em' must be"),
        (dict(type='rectangle', box='0011'), "box='0011' must be left, top"),
        (
            dict(type='rectangle', box=(0, 0, 0.5, 1), unit='pixel'),
            'must be whole pixels of the input',
        ),
    ],
)
def test_a_mistaken_mask_is_one_sentence(mask, words):
    with pytest.raises(ValueError, match=words) as error:
        PGD(mask=mask)
    assert '\n' not in str(error.value)


def test_a_missing_file_is_one_sentence():
    with pytest.raises(FileNotFoundError, match=r'no mask none\.png; give a \.png or'):
        PGD(mask='none.png')


def test_a_mask_of_boxes_is_refused_where_there_are_none():
    sample = batch_of()['data_samples'][0]
    del sample.gt_instances
    for mask in (Boxes(), Background()):
        with pytest.raises(NotApplicable, match='take a rectangle or a file'):
            mask.of(frame_of(), sample)


def test_a_mask_is_within_the_budget_without_and_not_the_reverse():
    boxes = Budget(4, mask='boxes')
    assert (
        boxes in Budget(4) and boxes in Budget(8) and boxes in Budget(8, mask='boxes')
    )
    assert Budget(4) not in boxes and Budget(2, mask='background') not in boxes
    assert Budget(8, mask='boxes') not in Budget(4)
    assert Budget(4, 'l2', 'boxes') not in Budget(4)
    assert str(boxes) == 'Linf 4, mask boxes' != str(Budget(4))
