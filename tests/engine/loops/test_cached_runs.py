"""What a run on disk depends on."""

import importlib
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader

from mmdiff.attacks import DAG, MIM, PGD
from mmdiff.engine.loops.cached_runs import Progress, describe
from mmdiff.engine.loops.image_set import ImageSet, image_names
from mmdiff.engine.loops.robust_plan import Run
from mmdiff.utils.digests import digest_code, digest_json


def test_another_setting_of_an_attack_is_another_run():
    attacks = PGD(eps=4), PGD(eps=4, seed=1), PGD(eps=4, steps=3), DAG(eps=4)
    assert len({digest_json(describe(attack)) for attack in attacks}) == 4
    assert describe(PGD(eps=4)) == describe(PGD(eps=4))


def test_another_mask_is_another_run_and_none_is_as_before():
    masks = 'boxes', dict(type='boxes', grow=1), 'background', (0, 0, 1, 0.5)
    named = [describe(PGD(eps=4, mask=mask)) for mask in masks]
    assert len({digest_json(each) for each in named}) == 4
    assert 'mask' not in describe(PGD(eps=4))


def test_another_source_of_a_transfer_is_another_run(tmp_path):
    config, weights = tmp_path / 'source.py', tmp_path / 'source.pth'

    def name(depth, parameters):
        config.write_text(f'model = dict(type="Any", depth={depth})')
        weights.write_bytes(parameters)
        return digest_json(describe(MIM(eps=4, source=f'{config},{weights}')))

    first = name(18, b'1')
    assert name(18, b'1') == first
    assert len({first, name(18, b'2'), name(34, b'1')}) == 3


class Numbers(torch.utils.data.Dataset):
    """Images of growing size, which count how often they are loaded."""

    def __init__(self, count):
        self.count, self.loaded = count, []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.loaded.append(index)
        meta = {'img_shape': (32, 32 * (1 + index % 2))}
        sample = torch.nn.Identity()  # copied and moved as a data sample is
        sample.cpu = lambda: SimpleNamespace(metainfo=meta, index=index)
        return {'inputs': index, 'data_samples': sample}


@pytest.fixture
def images():
    dataset = Numbers(5)
    loader = DataLoader(dataset, batch_size=2, collate_fn=list)
    return ImageSet(loader, lambda sample: None)


def test_batches_are_of_consecutive_images(images):
    assert images.spans(5) == [range(2), range(2, 4), range(4, 5)]
    assert images.spans(3) == [range(2), range(2, 3)]
    (batch,) = images.load([range(1, 3)])
    assert [item['inputs'] for item in batch] == [1, 2]
    assert list(images.load([])) == []


def test_a_sample_is_loaded_once(images):
    assert images.sample(3).index == images.sample(3).index == 3
    assert images.dataset.loaded == [3]
    assert images.digests() is None  # the dataset tells nothing of its images


def test_an_image_that_was_replaced_is_another_one(images, tmp_path):
    paths = [tmp_path / f'{i}.png' for i in range(5)]
    images.dataset.get_data_info = lambda i: {'img_id': i, 'img_path': str(paths[i])}
    for path in paths[:4]:  # the last one is not in the file system
        path.write_bytes(b'1')
    first = images.digests()
    assert images.digests() == first and len(set(first)) == 5
    paths[2].write_bytes(b'2')  # of the same name and size
    changed = images.digests()
    assert [a == b for a, b in zip(first, changed)] == [True, True, False, True, True]
    assert images.digests([2, 4]) == [changed[2], changed[4]]


def test_images_that_pad_to_less_than_their_batch_are_counted(images):
    model = torch.nn.Module()
    model.data_preprocessor = SimpleNamespace(pad_size_divisor=32)
    assert images.count_on_larger_canvas(model) == 2
    model.data_preprocessor = SimpleNamespace(pad_size_divisor=64)
    assert images.count_on_larger_canvas(model) == 0


def test_the_time_left_follows_from_the_work_done():
    progress = Progress([Run('clean', None, 10)], 20.0)
    progress.count(5, 10.0)
    assert progress.eta.total_seconds() == 30


CODE = """
from dataclasses import dataclass
import torch
from mmdiff.attacks import DetectionObjective, PGD
from mmdiff.registry import ATTACKS, OBJECTIVES

class Defence(torch.nn.Module):
    def forward(self, x):
        return {change} * x

@ATTACKS.register_module(force=True)
@dataclass(eq=False, kw_only=True)
class Own(PGD):
    pass

@OBJECTIVES.register_module(force=True)
@dataclass
class OwnObjective(DetectionObjective):
    def __call__(self, candidates, truth):
        return {change} * candidates.scores.sum()
"""


def test_edited_code_is_another_run(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))

    def names(change):
        (tmp_path / 'own_code.py').write_text(CODE.format(change=change))
        monkeypatch.delitem(sys.modules, 'own_code', raising=False)
        importlib.invalidate_caches()
        own = importlib.import_module('own_code')
        attacks = own.Own(eps=4), PGD(eps=4, objective={'type': 'OwnObjective'})
        named = [digest_json(describe(attack)) for attack in attacks]
        return [digest_code([own.Defence]), *named, digest_json(describe(PGD(eps=4)))]

    first, edited = names(1), names(22)  # of another length: no file of bytecode fits
    assert first == names(1)
    assert [a == b for a, b in zip(first, edited)] == [False, False, False, True]


def test_files_of_one_name_are_told_apart_by_their_folders():
    paths = 'set/cat/1.png', 'set/dog/1.png'

    def names(paths, **info):
        samples = [SimpleNamespace(metainfo={'img_path': p, **info}) for p in paths]
        return image_names(Sized(samples.__getitem__, len(samples)))

    assert names(paths) == ['cat/1.png', 'dog/1.png']
    assert names(['set/cat/1.png', 'set/dog/2.png']) == ['1.png', '2.png']
    assert names(paths, img_id=7) == [7, 7]


class Sized:
    def __init__(self, sample, count):
        self.sample, self.count = sample, count

    def __len__(self):
        return self.count
