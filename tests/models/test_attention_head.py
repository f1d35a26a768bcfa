"""The attention head of classifiers."""

import pytest
import torch
from conftest import TINY_UNET

pytest.importorskip('mmpretrain', reason='mmpretrain is not installed')

from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from mmdiff.models import AttentionClsHead
from mmdiff.utils.modules import num_classes


def build(**settings):
    torch.manual_seed(0)
    head = AttentionClsHead(5, 16, **{'pool': 4, **settings})
    head.init_weights()
    torch.nn.init.normal_(head.class_token)
    return head.eval()


def test_it_has_the_parts_of_the_published_head():
    head = build()
    shapes = {name: tuple(value.shape) for name, value in head.named_parameters()}
    assert shapes['norm.weight'] == (16, 4, 4)
    assert shapes['projection.weight'] == (16, 16, 1, 1)
    assert shapes['class_token'] == (1, 1, 16) and shapes['fc.weight'] == (5, 16)
    assert not any('qkv.bias' in name or 'pos' in name for name in shapes)
    assert len(head.blocks) == 2 and head.blocks[0].attn.num_heads == 8
    assert shapes['blocks.0.ffn.layers.0.0.weight'] == (64, 16)
    assert AttentionClsHead(5, 16).class_token.abs().max() == 0
    assert num_classes(torch.nn.ModuleDict({'head': head})) == 5  # attacks ask for it


def test_positions_do_not_matter_after_the_norm():
    head, x = build(norm='BN'), torch.randn(2, 16, 4, 4)
    shuffled = x.flatten(2)[..., torch.randperm(16)].view_as(x)
    assert torch.allclose(head((x,)), head((shuffled,)), atol=1e-5)
    assert not torch.allclose(head((x,)), head((2 * x,)), atol=1e-3)


def test_larger_features_are_pooled_and_the_last_tap_is_used():
    head, x = build(), torch.randn(2, 16, 8, 8)
    pooled = torch.nn.functional.avg_pool2d(x, 2)
    assert torch.allclose(head((torch.randn(1), x)), head((pooled,)), atol=1e-5)


def test_what_does_not_fit_is_one_sentence():
    with pytest.raises(ValueError, match='in_channels=16, and the features are'):
        build()((torch.randn(2, 8, 4, 4),))
    with pytest.raises(ValueError, match='leave out the neck'):
        build()((torch.randn(2, 16),))
    with pytest.raises(ValueError, match='pool=4 is more than the features of 2x2'):
        build()((torch.randn(2, 16, 2, 2),))
    with pytest.raises(ValueError, match='num_heads=3 does not divide'):
        build(num_heads=3)
    with pytest.raises(ValueError, match="norm='GN' must be one of"):
        build(norm='GN')
    with pytest.raises(ValueError, match='num_classes=0'):
        AttentionClsHead(0, 16)


def test_a_classifier_learns_its_head_alone():
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='mmpretrain.ImageClassifier',
            _scope_='mmpretrain',
            data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),
            backbone=dict(
                type='mmdiff.DiffusionUNet',
                model=TINY_UNET,
                timestep=10,
                out_indices=('mid',),
            ),
            head=dict(
                type='mmdiff.AttentionClsHead', num_classes=2, in_channels=8, pool=8
            ),
        )
    )
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.Adam(model.head.parameters(), lr=1e-2)
    x = torch.randn(4, 3, 32, 32)
    x[:2] += 1
    samples = [DataSample().set_gt_label(label) for label in (0, 0, 1, 1)]
    losses = []
    for _ in range(25):
        loss = model(x, samples, mode='loss')['loss']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    changed = {k for k, v in model.state_dict().items() if not v.equal(before[k])}
    assert changed and all(name.startswith('head.') for name in changed)
    image = x.clone().requires_grad_()
    model(image, mode='tensor').sum().backward()
    assert image.grad.abs().max() > 0
