"""The linear head of classifiers."""

import pytest
import torch

pytest.importorskip('mmpretrain', reason='mmpretrain is not installed')

from mmpretrain.registry import MODELS

from mmdiff.models import PooledLinearClsHead


def test_pooled_to_one_it_is_mmpretrains_head_behind_global_pooling():
    ours = PooledLinearClsHead(num_classes=5, in_channels=16)
    neck = MODELS.build(dict(type='mmpretrain.GlobalAveragePooling'))
    theirs = MODELS.build(
        dict(type='mmpretrain.LinearClsHead', num_classes=5, in_channels=16)
    )
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 16, 8, 8)
    assert torch.allclose(ours((x,)), theirs(neck((x,))), atol=1e-6)


def test_a_larger_pool_keeps_where_things_are():
    head = PooledLinearClsHead(num_classes=5, in_channels=4, pool=2)
    assert head.fc.in_features == 16
    x = torch.zeros(1, 4, 8, 8)
    x[:, 1, :4, 4:] = 3
    pooled = head.pre_logits((torch.randn(1), x)).view(4, 2, 2)
    assert pooled[1].tolist() == [[0, 3], [0, 0]] and pooled[[0, 2, 3]].abs().max() == 0


def test_what_does_not_fit_is_one_sentence():
    head = PooledLinearClsHead(num_classes=5, in_channels=16, pool=4)
    with pytest.raises(ValueError, match='in_channels=16, and the features are .2, 8'):
        head((torch.randn(2, 8, 4, 4),))
    with pytest.raises(ValueError, match='leave out the neck'):
        head((torch.randn(2, 16),))
    with pytest.raises(ValueError, match='pool=4 is more than the features of 2x2'):
        head((torch.randn(2, 16, 2, 2),))
    with pytest.raises(ValueError, match='pool=0 must be at least 1'):
        PooledLinearClsHead(num_classes=5, in_channels=16, pool=0)
