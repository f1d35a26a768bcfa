import pytest
import torch

from mmdiff.models import DiffusionFPN


@pytest.mark.parametrize(
    'in_strides, out_strides',
    [
        ((4, 8, 16, 32), (4, 8, 16, 32, 64)),
        ((8, 8, 32), (4, 8, 16, 32)),  # two taps of a stride, a gap, a finer level
        ((2, 4), (8, 16, 32)),  # taps finer than every level
        ((16,), (4, 8, 16, 32, 64)),
    ],
)
def test_levels_have_their_strides(in_strides, out_strides):
    torch.manual_seed(0)
    neck = DiffusionFPN([6] * len(in_strides), in_strides, 8, out_strides)
    taps = tuple(torch.randn(2, 6, 64 // s, 128 // s) for s in in_strides)
    taps = tuple(tap.requires_grad_() for tap in taps)
    levels = neck(taps)
    shapes = [tuple(level.shape) for level in levels]
    assert shapes == [(2, 8, -(-64 // s), -(-128 // s)) for s in out_strides]
    sum(level.square().sum() for level in levels).backward()
    assert all(tap.grad.abs().sum() > 0 for tap in taps)
    assert all(p.grad is not None for p in neck.parameters())


def test_retinanet_levels():
    neck = DiffusionFPN(
        [4],
        [8],
        8,
        (8, 16, 32),
        add_extra_convs='on_output',
        relu_before_extra_convs=True,
    )
    assert len(neck((torch.randn(1, 4, 16, 16),))) == 3
    assert len(neck.fpn.fpn_convs) == 3


def test_bad_arguments_are_one_sentence():
    for args, words in (
        (([4, 4], [8]), 'must name the same taps'),
        (([], []), 'must name the same taps'),
        (([4], [8], 8, (4, 16)), 'must double'),
    ):
        with pytest.raises(ValueError, match=words):
            DiffusionFPN(*args)
    with pytest.raises(ValueError, match='built for 1 taps and got 2'):
        DiffusionFPN([4], [8])((torch.randn(1, 4, 8, 8),) * 2)


def test_parameters_are_named_as_in_older_checkpoints():
    neck = DiffusionFPN([4, 6], [4, 8], 48, (4, 8))
    names = {name for name, _ in neck.named_parameters() if 'projections' in name}
    assert names == {
        f'projections.{i}.{layer}.{kind}'
        for i in (0, 1)
        for layer in (0, 1)
        for kind in ('weight', 'bias')
    }
    assert isinstance(neck.projections[0][1], torch.nn.GroupNorm)
    assert neck.projections[0][1].num_groups == 16


@pytest.mark.parametrize(
    'norm_cfg, kind',
    [
        (dict(type='BN'), torch.nn.BatchNorm2d),
        (dict(type='GN', num_groups=4), torch.nn.GroupNorm),
    ],
)
def test_norm_cfg_sets_all_norms(norm_cfg, kind):
    neck = DiffusionFPN([4], [4], 8, (4, 8), norm_cfg=norm_cfg)
    assert type(neck.projections[0][1]) is kind
    assert all(type(conv.norm) is kind for conv in neck.fpn.fpn_convs)
    assert len(neck((torch.randn(2, 4, 16, 16),))) == 2
