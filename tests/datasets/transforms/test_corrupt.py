"""Common corruptions: stronger with severity, the same in every run."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from mmdiff.datasets import CORRUPTIONS, Corrupt
from mmdiff.datasets.toy_shapes import draw_scene


@pytest.fixture
def in_python(monkeypatch):
    """Compiling the glass blur's shuffle takes far longer than these images."""
    from imagecorruptions import corruptions

    shuffle = corruptions._shuffle_pixels_njit_glass_blur
    name = '_shuffle_pixels_njit_glass_blur'
    monkeypatch.setattr(corruptions, name, shuffle.py_func)


def corrupted(corruption, severity, image, image_id=0, **kwargs):
    results = dict(img=image.copy(), img_id=image_id)
    return Corrupt(corruption, severity, **kwargs)(results)['img']


@pytest.mark.parametrize('corruption', CORRUPTIONS)
def test_severity_and_repetition(corruption, in_python):
    sizes = {}
    for severity in (1, 5):
        changes = []
        for i in range(3):
            image, _ = draw_scene(np.random.default_rng(i), 64)
            image = image[:, :48]
            np.random.seed(i)
            before = np.random.get_state()[1].copy()
            found = corrupted(corruption, severity, image, i)
            assert (np.random.get_state()[1] == before).all()
            np.random.rand(100)  # whatever is drawn elsewhere
            assert (found == corrupted(corruption, severity, image, i)).all()
            assert found.shape == image.shape and found.dtype == np.uint8
            changes.append(np.abs(found.astype(float) - image).mean())
        sizes[severity] = np.mean(changes)
    assert sizes[5] > 1.2 * sizes[1] > 0


@pytest.mark.slow
def test_compiled_glass_blur_repeats_itself():
    image, _ = draw_scene(np.random.default_rng(0), 64)
    found = [corrupted('glass_blur', 5, image, i) for i in (0, 1, 0)]
    assert (found[0] == found[2]).all() and (found[0] != found[1]).any()


@pytest.mark.parametrize(
    'corruption', ['gaussian_noise', 'impulse_noise', 'frost', 'elastic_transform']
)
def test_randomness_is_the_images_own(corruption):
    image, _ = draw_scene(np.random.default_rng(0), 64)
    first = corrupted(corruption, 3, image, 0)
    assert (corrupted(corruption, 3, image, 1) != first).any()
    assert (corrupted(corruption, 3, image, 0, seed=1) != first).any()


def test_images_are_bgr():
    """Snow brightens by luminance: blue, the darkest, least."""
    blue, red = np.zeros((2, 64, 64, 3), np.uint8)
    blue[..., 0] = red[..., 2] = 255
    lightest = [corrupted('snow', 5, image).min() for image in (blue, red)]
    assert lightest[0] < lightest[1] - 20


@pytest.mark.parametrize('size', [(32, 32), (33, 77), (100, 32)])
def test_odd_sizes_and_boxes(size, in_python):
    image, _ = draw_scene(np.random.default_rng(0), 100)
    boxes = np.array([[1.0, 2, 30, 31]])
    for corruption in CORRUPTIONS:
        results = dict(img=image[: size[0], : size[1]], img_id=0, gt_bboxes=boxes)
        found = Corrupt(corruption, 5)(results)
        assert found['img'].shape == (*size, 3)
        assert found['gt_bboxes'] is boxes and (boxes == [[1, 2, 30, 31]]).all()


def test_mistakes_are_one_sentence(monkeypatch):
    with pytest.raises(ValueError, match="'rain' is unknown; choose one of gauss"):
        Corrupt('rain')
    with pytest.raises(ValueError, match='severity=6 must be 1, 2, 3, 4 or 5'):
        Corrupt('fog', 6)
    with pytest.raises(ValueError, match='right after LoadImageFromFile'):
        Corrupt('fog')(dict(img=np.zeros((64, 64, 3), np.float32), img_id=0))
    with pytest.raises(ValueError, match='sides of 32 pixels'):
        Corrupt('fog')(dict(img=np.zeros((31, 64, 3), np.uint8), img_id=0))
    with pytest.raises(ValueError, match='give one of them'):
        Corrupt('fog')(dict(img=np.zeros((64, 64, 3), np.uint8)))
    # Not there, or the first package of that name, which cannot be seeded.
    unseeded = dict(glass_blur=lambda x, severity=1: x)
    for module in (None, SimpleNamespace(corruption_dict=unseeded)):
        monkeypatch.setitem(sys.modules, 'imagecorruptions', module)
        with pytest.raises(ImportError, match=r"install 'mmdiff\[corruptions\]'"):
            Corrupt('fog')
