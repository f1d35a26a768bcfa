"""Many images: interrupted, resumed, packed."""

import numpy as np
import pytest
import torch
from conftest import TINY_UNET
from PIL import Image

from mmdiff import DiffusionModel
from mmdiff.diffusion import generate_images, sample_grid
from mmdiff.diffusion.sampling import guided

LABELLED = {**TINY_UNET, 'sample_size': 16, 'num_class_embeds': 4, 'null_class': 3}


def build(source=LABELLED):
    torch.manual_seed(0)
    return DiffusionModel.from_pretrained(source).eval()


def read(folder):
    return {
        str(p.relative_to(folder)): np.asarray(Image.open(p))
        for p in folder.rglob('*.png')
    }


def same(one, two):
    return one.keys() == two.keys() and all(np.array_equal(one[k], two[k]) for k in one)


def test_resumed_run_gives_the_same_images(tmp_path):
    """Whatever was there when it stopped, and in batches of another size."""
    model = build()
    args = dict(steps=2, class_balanced=True)
    assert generate_images(model, 7, tmp_path / 'a', batch_size=7, **args) == 7
    whole = read(tmp_path / 'a')
    assert len(whole) == 7 and sorted(p[:2] for p in whole) == sorted(
        ['00', '01', '02', '00', '01', '02', '00']
    )

    class Stopped(Exception):
        pass

    def stop(done):
        if done >= 4:
            raise Stopped

    with pytest.raises(Stopped):
        generate_images(model, 7, tmp_path / 'b', batch_size=2, progress=stop, **args)
    assert len(read(tmp_path / 'b')) == 4
    assert generate_images(model, 7, tmp_path / 'b', batch_size=3, **args) == 3
    again = read(tmp_path / 'b')
    assert whole.keys() == again.keys()
    for key in whole:  # batches of other sizes round differently in the last bit
        assert np.abs(whole[key].astype(int) - again[key]).max() <= 1


def test_npz_has_the_images_and_labels_of_the_folder(tmp_path):
    model = build()
    generate_images(model, 6, tmp_path / 'x', steps=2)
    generate_images(model, 6, tmp_path / 'x.npz', steps=2)
    packed = np.load(tmp_path / 'x.npz')
    assert packed['image'].shape == (6, 16, 16, 3) and packed['image'].dtype == np.uint8
    for i, (image, label) in enumerate(zip(packed['image'], packed['label'])):
        path = tmp_path / 'x' / f'{label:02d}' / f'{i:06d}.png'
        assert np.array_equal(np.asarray(Image.open(path)), image)
    assert not (tmp_path / 'x.npz.partial').exists()
    # Longer runs begin with the same labels.
    generate_images(model, 8, tmp_path / 'y.npz', steps=2)
    longer = np.load(tmp_path / 'y.npz')
    assert np.array_equal(longer['label'][:6], packed['label'])


def test_the_label_matters_and_guidance_sharpens_it():
    model = build()
    model.unet.class_embedding.weight.data *= 20
    noise = [torch.Generator().manual_seed(5) for _ in range(2)]
    images = model.sample((2, 16, 16), 3, noise, torch.tensor([0, 1]))
    assert not torch.allclose(images[0], images[1], atol=1e-3)
    x, t, cond = torch.randn(1, 3, 16, 16), 500, torch.tensor([0])
    with torch.no_grad():
        plain, free = model.predict(x, t, cond), model.predict(x, t, cond * 0 + 3)
        out = guided(model.predict, 3, 2.0)(x, t, cond)
    assert torch.allclose(out, free + 2 * (plain - free), atol=1e-6)


def test_grid_shows_classes_in_turn():
    grid = sample_grid(build(), 6, steps=2)
    assert grid.shape == (2 * 16, 3 * 16, 3) and grid.dtype == np.uint8
    assert np.array_equal(grid, sample_grid(build(), 6, steps=2))


@pytest.mark.parametrize(
    'source, kwargs, words',
    [
        (TINY_UNET, dict(class_balanced=True), 'unconditional'),
        (TINY_UNET, dict(guidance=2.0), 'trained with label dropout'),
        (LABELLED, dict(size=18), '18x18 does not divide by the stride 4'),
        (LABELLED, dict(batch_size=0), 'batch_size=0 must be at least 1'),
        (LABELLED, dict(steps=3), 'other settings .steps'),
        (LABELLED, dict(steps=0), 'steps=0 must be at least 1'),
    ],
)
def test_bad_requests_are_one_sentence(tmp_path, source, kwargs, words):
    model = build(source)
    if 'steps' in kwargs:
        generate_images(model, 1, tmp_path, steps=2)
    with pytest.raises(ValueError, match=words) as caught:
        generate_images(model, 2, tmp_path, **{'steps': 2, **kwargs})
    assert '\n' not in str(caught.value)


def test_a_finished_npz_is_not_overwritten(tmp_path):
    (tmp_path / 'x.npz').write_bytes(b'precious')
    with pytest.raises(ValueError, match='is there already'):
        generate_images(build(), 1, tmp_path / 'x.npz')
    assert (tmp_path / 'x.npz').read_bytes() == b'precious'


def test_what_a_killed_run_was_writing_is_no_image(tmp_path):
    model = build()
    generate_images(model, 2, tmp_path, steps=2)
    half = next(tmp_path.rglob('*.png')).with_name('.000009.123.partial.png')
    half.write_bytes(b'half')
    assert generate_images(model, 2, tmp_path, steps=2) == 0
    assert len(read(tmp_path)) == 2
