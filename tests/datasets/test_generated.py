"""Images of a prior beside real ones, in a fixed ratio."""

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, DefaultSampler
from PIL import Image

from mmdiff.datasets import GeneratedDataset, MixedBatchSampler, MixedDataset
from mmdiff.diffusion import DiffusionModel, generate_images

CLASSES = tuple('abc')


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """What a class-conditional prior draws: both forms, without the class 0."""
    unet = dict(
        type='UNet2DModel',
        sample_size=8,
        block_out_channels=(4, 8),
        down_block_types=('DownBlock2D',) * 2,
        up_block_types=('UpBlock2D',) * 2,
        layers_per_block=1,
        norm_num_groups=2,
        num_class_embeds=3,
    )
    model = DiffusionModel.from_pretrained(unet)
    folder = tmp_path_factory.mktemp('generated')
    for out in ('images', 'images.npz'):
        generate_images(model, 8, folder / out, steps=1, seed=3)
    return folder


def colours(dataset):
    return {(item['gt_label'], item['img'].tobytes()) for item in dataset}


def test_folders_and_arrays_are_the_same_images_with_the_classes_asked_for(root):
    folder, packed = (
        GeneratedDataset(root / name, metainfo=dict(classes=CLASSES))
        for name in ('images', 'images.npz')
    )
    assert len(folder) == len(packed) == 8 and colours(folder) == colours(packed)
    labels = np.load(root / 'images.npz')['label']
    assert sorted(item['gt_label'] for item in folder) == sorted(labels.tolist())
    item = folder[0]
    rgb = np.asarray(Image.open(item['img_path']))
    assert np.array_equal(item['img'], rgb[..., ::-1])  # as files are loaded
    assert item['img_shape'] == (8, 8)
    same = GeneratedDataset(root / 'images', channel_order='rgb')[0]['img']
    assert np.array_equal(same, rgb)


def test_classes_are_those_of_the_folders_even_if_one_is_missing(tmp_path):
    (tmp_path / '02').mkdir()
    Image.new('RGB', (8, 8)).save(tmp_path / '02' / '000000.png')
    assert GeneratedDataset(tmp_path)[0]['gt_label'] == 2


def test_images_without_labels_are_refused(tmp_path):
    Image.new('RGB', (8, 8)).save(tmp_path / '000000.png')
    with pytest.raises(ValueError, match='have no labels; draw them by tools/sample'):
        GeneratedDataset(tmp_path)
    np.savez(tmp_path / 'x.npz', image=np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match='no image and label'):
        GeneratedDataset(tmp_path / 'x.npz')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match='has no image in a folder of a class'):
        GeneratedDataset(tmp_path / 'empty')
    with pytest.raises(FileNotFoundError, match='There are no images at'):
        GeneratedDataset(tmp_path / 'nowhere')
    with pytest.raises(ValueError, match="channel_order='gbr'"):
        GeneratedDataset(tmp_path, channel_order='gbr')


class Real(BaseDataset):
    """Ten images by number."""

    METAINFO = dict(classes=CLASSES)

    def load_data_list(self):
        return [{'number': i} for i in range(10)]


def sampler_of(dataset, epoch=0, batch_size=5, ratio=0.4, **kwargs):
    sampler = DefaultSampler(dataset, seed=1)
    vars(sampler).update(epoch=epoch, **kwargs)
    return MixedBatchSampler(sampler, batch_size, ratio)


def test_every_batch_has_the_ratio_and_epochs_go_on_where_the_last_ended(root):
    generated = dict(type='mmdiff.GeneratedDataset', data_root=str(root / 'images'))
    mixed = MixedDataset(Real(), generated)
    assert len(mixed) == 18 and mixed.num_real == 10
    assert mixed.datasets[1].metainfo['classes'] == CLASSES
    real, drawn = [], []
    for epoch in range(5):
        sampler = sampler_of(mixed, epoch)
        batches = list(sampler)
        assert len(sampler) == len(batches) == 2  # ten images, as there are real ones
        assert batches == list(sampler_of(mixed, epoch))
        for batch in batches:
            assert len(batch) == 5 and sum(i < 10 for i in batch) == 2
            real += [i for i in batch if i < 10]
            drawn += [i for i in batch if i >= 10]
    assert sorted(real[:10]) == sorted(real[10:]) == list(range(10))
    assert real[:10] != real[10:]
    rounds = [drawn[start : start + 8] for start in (0, 8, 16)]
    assert all(sorted(each) == list(range(10, 18)) for each in rounds)


def test_ranks_share_the_images(root):
    mixed = MixedDataset(Real(), GeneratedDataset(root / 'images'))
    alone = list(sampler_of(mixed, batch_size=10))
    ranks = [
        list(sampler_of(mixed, world_size=2, rank=rank, batch_size=5))
        for rank in (0, 1)
    ]
    together = [first + second for first, second in zip(*ranks)]
    assert [sorted(batch) for batch in together] == [sorted(batch) for batch in alone]


def test_what_cannot_be_mixed_is_refused(root):
    mixed = MixedDataset(Real(), GeneratedDataset(root / 'images'))
    for ratio in (-0.1, 1.5):
        with pytest.raises(ValueError, match=f'real_ratio={ratio} is no share'):
            sampler_of(mixed, ratio=ratio)
    with pytest.raises(ValueError, match='0.01 of a batch of 5 is 0 images'):
        sampler_of(mixed, ratio=0.01)
    with pytest.raises(ValueError, match='not images of Real; set dataset='):
        sampler_of(Real())
    others = GeneratedDataset(root / 'images', metainfo=dict(classes=tuple('xyz')))
    with pytest.raises(ValueError, match='classes a, b, c and the generated ones x'):
        MixedDataset(Real(), others)
    with pytest.raises(ValueError, match='images of class 2 and .* 2 classes'):
        GeneratedDataset(root / 'images', metainfo=dict(classes=('a', 'b')))
    assert {len(batch) for batch in sampler_of(mixed, ratio=1)} == {5}
    assert torch.utils.data.DataLoader(mixed, batch_sampler=sampler_of(mixed))
