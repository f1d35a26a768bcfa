"""Features of a frozen backbone are computed once."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from mmdiff.engine.feature_cache import FeatureCache, FeatureStore
from mmdiff.engine.hooks import FeatureCacheHook
from mmdiff.models import DiffusionUNet

SOURCE = dict(
    type='UNet2DModel',
    block_out_channels=(4, 8),
    down_block_types=('DownBlock2D', 'DownBlock2D'),
    up_block_types=('UpBlock2D', 'UpBlock2D'),
    norm_num_groups=2,
    sample_size=16,
)


def make_backbone(**kwargs):
    torch.manual_seed(0)
    settings = dict(model=SOURCE, timestep=10, out_indices=('mid', 'up.1'))
    return DiffusionUNet(**{**settings, **kwargs})


def count_blocks(backbone):
    """Number of images that each pass of the U-Net's first layer has seen."""
    passes = []
    unet = backbone.model.unet
    unet.conv_in.register_forward_hook(lambda m, args, out: passes.append(len(out)))
    return passes


def images(n, seed=0):
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def test_on_a_hit_no_block_runs_and_values_are_those_of_the_first_time(tmp_path):
    backbone, x = make_backbone(), images(3)
    expected = backbone(x)
    backbone.feature_cache = cache = FeatureCache(tmp_path)
    first = backbone(x)
    passes = count_blocks(backbone)
    again = backbone(x.flip(0))
    assert passes == [] and (cache.hits, cache.misses) == (3, 3)
    for a, b, c in zip(expected, first, again):
        assert torch.equal(b, c.flip(0)) and b.dtype == torch.float32
        assert torch.equal(b, b.bfloat16().float())
        assert torch.allclose(a, b, rtol=2**-8, atol=1e-6)


def test_only_what_is_missing_is_computed_and_the_order_stays(tmp_path):
    backbone, x = make_backbone(), images(4)
    expected = backbone(x)
    backbone.feature_cache = FeatureCache(tmp_path, 'fp32')
    backbone(x[[1, 3]])
    passes = count_blocks(backbone)
    for a, b in zip(expected, backbone(x)):
        assert torch.allclose(a, b, atol=1e-6)
    assert passes == [2]
    backbone(x.flip(-1))  # a flipped image is another one
    assert passes == [2, 4]


@pytest.mark.parametrize('kwargs', [{'noise': 'fresh'}, {'frozen': False}])
def test_features_that_change_are_never_kept(tmp_path, kwargs):
    backbone = make_backbone(**kwargs)
    backbone.feature_cache = FeatureCache(tmp_path)
    backbone(images(1))
    assert list(tmp_path.iterdir()) == []


def test_an_attack_gets_its_gradient(tmp_path):
    backbone, x = make_backbone(), images(1).requires_grad_()
    backbone.feature_cache = FeatureCache(tmp_path)
    with torch.no_grad():
        backbone(x)
    (grad,) = torch.autograd.grad(backbone(x)[0].sum(), x)
    assert grad.abs().sum() > 0 and backbone.feature_cache.hits == 0


@pytest.mark.parametrize(
    'kwargs',
    [
        {'timestep': 11},
        {'noise_seed': 1},
        {'num_noise': 2},
        {'noise': 'none'},
        {'out_indices': ('mid',)},
        {'model': dict(source=SOURCE, schedule=dict(beta_schedule='scaled_linear'))},
        {'model': dict(SOURCE, act_fn='relu')},  # the same weights
    ],
    ids=str,
)
def test_what_features_depend_on_names_them(tmp_path, kwargs):
    for settings in ({}, kwargs):
        backbone = make_backbone(**settings)
        backbone.feature_cache = FeatureCache(tmp_path, 'fp32')
        values = backbone(images(1))
    assert backbone.feature_cache.misses == 1
    backbone.feature_cache = None
    for a, b in zip(backbone(images(1)), values, strict=True):
        assert torch.equal(a, b)


def test_other_weights_other_canvas_and_autocast_find_nothing(tmp_path):
    backbone = make_backbone()
    backbone.feature_cache = cache = FeatureCache(tmp_path)
    backbone(images(1))
    backbone(images(1).view(1, 3, 8, 32))
    with torch.autocast('cpu', torch.bfloat16):
        backbone(images(1))
    with torch.no_grad():
        backbone.model.unet.conv_in.weight += 1
    backbone(images(1))
    assert (cache.hits, cache.misses) == (0, 4)


def test_a_damaged_file_is_computed_anew(tmp_path):
    backbone, x = make_backbone(), images(1)
    backbone.feature_cache = cache = FeatureCache(tmp_path)
    first = backbone(x)
    (file,) = tmp_path.glob('*/*.safetensors')
    whole = file.read_bytes()
    for torn in (whole[:-1], whole[:5], b''):
        file.write_bytes(torn)
        assert all(map(torch.equal, first, backbone(x)))
        assert file.read_bytes() == whole
    assert (cache.hits, cache.misses) == (0, 4)


def test_what_was_read_longest_ago_makes_room(tmp_path):
    store = FeatureStore(tmp_path, 10_000)
    names = [f'{k:064x}' for k in range(20)]
    for k, name in enumerate(names):
        store.put(name, [torch.zeros(250)])  # 1,000 bytes and a header
        os.utime(store._path(name), (k, k))
        assert store.get(names[0]) is not None  # read, so it stays
        held = sum(file.stat().st_size for file in tmp_path.glob('*/*'))
        assert held <= 10_000 + 1100
    kept = [store.get(name) is not None for name in names]
    assert kept[0] and kept[-1] and not any(kept[1:10])


def test_files_of_killed_processes_are_cleared_away_and_never_read(tmp_path):
    store, name = FeatureStore(tmp_path, 10_000), 'ab' * 32
    store.put(name, [torch.zeros(1)])
    path = store._path(name)
    partial = path.with_name('.x.1.partial.safetensors')
    path.rename(partial)
    assert store.get(name) is None
    store.shrink()
    assert partial.exists()  # perhaps it is being written
    os.utime(partial, (time.time() - 4000,) * 2)
    store.shrink()
    assert not partial.exists()


def test_several_may_write_and_evict_together(tmp_path):
    def work(seed):
        store = FeatureStore(tmp_path, 30_000)
        for k in range(60):
            name = f'{(k * (seed + 1)) % 40:064x}'
            values = store.get(name)
            if values is None:
                store.put(name, [torch.full((250,), float(int(name, 16)))])
            else:
                assert values[0].unique().tolist() == [int(name, 16)]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    FeatureStore(tmp_path, 30_000).shrink()
    assert sum(f.stat().st_size for f in tmp_path.glob('*/*')) <= 30_000


def test_settings_out_of_range_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'bf16', 'fp32'"):
        FeatureCache(tmp_path, 'fp8')
    with pytest.raises(ValueError, match='leaves no room'):
        FeatureCacheHook(tmp_path, max_gb=0)


class Head(BaseModel):
    """The mean of the features is to be a number."""

    def __init__(self, **kwargs):
        super().__init__()
        self.backbone = make_backbone(**kwargs)
        self.fc = nn.Linear(12, 1)

    def forward(self, inputs, mode='tensor'):
        means = [f.mean((2, 3)) for f in self.backbone(inputs)]
        out = self.fc(torch.cat(means, 1)).flatten()
        return {'loss': (out - inputs.mean((1, 2, 3))).square().mean()}


def train(folder, name, hooks, by_epoch=True, **kwargs):
    torch.manual_seed(0)
    model = Head(**kwargs)
    passes = count_blocks(model.backbone)
    data = [{'inputs': x} for x in images(8)]
    if by_epoch:
        loop = dict(type='EpochBasedTrainLoop', max_epochs=3)
    else:
        loop = dict(type='IterBasedTrainLoop', max_iters=6)
    runner = Runner(
        model,
        str(folder / name),
        train_dataloader=dict(
            batch_size=4,
            num_workers=0,
            dataset=data,
            collate_fn=dict(type='default_collate'),
            sampler=dict(type='DefaultSampler', shuffle=True),
        ),
        train_cfg=dict(loop, _scope_='mmengine'),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=hooks,
        randomness=dict(seed=0),
        log_level='WARNING',
        experiment_name=name,
        default_scope='mmdet',  # as for all tests of the process
    )
    runner.train()
    return passes, model.fc.weight.detach()


@pytest.mark.parametrize('by_epoch', [True, False])
def test_training_after_the_first_epoch_runs_no_block(tmp_path, by_epoch):
    hook = dict(type='mmdiff.FeatureCacheHook', folder=tmp_path / 'f', precision='fp32')
    plain, expected = train(tmp_path, f'plain{by_epoch}', [], by_epoch)
    cached, weight = train(tmp_path, f'cached{by_epoch}', [hook], by_epoch)
    assert plain == [4] * 6 and cached == [4] * 2
    assert torch.allclose(weight, expected, atol=1e-6)
    # Another run of the same prior has nothing left to compute.
    again, weight = train(tmp_path, f'again{by_epoch}', [hook], by_epoch)
    assert again == [] and torch.allclose(weight, expected, atol=1e-6)


def test_a_backbone_that_changes_is_refused_before_training(tmp_path):
    hook = dict(type='mmdiff.FeatureCacheHook', folder=tmp_path / 'f')
    with pytest.raises(ValueError, match='needs a frozen DiffusionUNet'):
        train(tmp_path, 'fresh', [hook], noise='fresh')
