"""Taps: those of the full forward, early exit, truncation, gradients."""

import pytest
import torch
from conftest import TINY_UNET, needs_torch
from test_ddpm import PATCHED, build

from mmdiff.diffusion.features import FeatureInfo, resolve_taps

# Every kind of block that the extractor treats in its own way.
VARIANTS = {
    'plain': TINY_UNET,
    'patches': PATCHED,
    'resnet-resampling': {
        **TINY_UNET,
        'downsample_type': 'resnet',
        'upsample_type': 'resnet',
        'resnet_time_scale_shift': 'scale_shift',
    },
    'skip': {
        **TINY_UNET,
        'down_block_types': ('SkipDownBlock2D', 'AttnSkipDownBlock2D') * 1
        + ('SkipDownBlock2D',),
        'up_block_types': ('SkipUpBlock2D', 'AttnSkipUpBlock2D', 'SkipUpBlock2D'),
        'block_out_channels': (32, 32, 32),
        'norm_num_groups': 8,
    },
    'no-mid': {**TINY_UNET, 'mid_block_type': None},
}


def tapped_modules(unet):
    """Name of the tap and module of every block and layer."""
    for side in ('down', 'up'):
        for i, block in enumerate(getattr(unet, f'{side}_blocks')):
            yield f'{side}.{i}', block
            attentions = getattr(block, 'attentions', None) or []
            for j, layer in enumerate(block.resnets):
                if len(attentions) == len(block.resnets):
                    layer = attentions[j] or layer
                yield f'{side}.{i}.{j}', layer
    if unet.mid_block is not None:
        yield 'mid', unet.mid_block


@pytest.mark.parametrize('kind', VARIANTS)
def test_features_are_those_of_the_full_forward(kind):
    """Every tap equals what diffusers' own forward computes there."""
    model = build(VARIANTS[kind])
    x = torch.randn(2, 3, 32, 32)
    t = 7
    recorded = {}

    def record(name):
        def hook(_module, _args, out):
            recorded[name] = out[0] if isinstance(out, tuple) else out

        return hook

    hooked = [
        module.register_forward_hook(record(name))
        for name, module in tapped_modules(model.unet)
    ]
    model.unet(model._network_input(x), t)
    for handle in hooked:
        handle.remove()
    assert set(recorded) == {info.name for info in model.feature_info}
    found = model.features(x, t, list(recorded))
    for info in model.feature_info:
        value = found[info.name]
        assert torch.allclose(value, recorded[info.name], atol=1e-6), info
        assert value.shape == (2, info.channels, 32 // info.stride, 32 // info.stride)


def test_no_block_past_the_deepest_tap_runs():
    model = build()
    ran = []
    for name in ('mid_block', 'up_blocks.0', 'up_blocks.1', 'up_blocks.2'):
        model.unet.get_submodule(name).register_forward_hook(
            lambda *_args, name=name: ran.append(name)
        )
    model.features(torch.randn(1, 3, 32, 32), 0, ['down.1', 'up.0.0'])
    assert ran == ['mid_block', 'up_blocks.0']


@pytest.mark.parametrize('tap', ['down.0.0', 'down.1', 'mid', 'up.1.0', 'up.2'])
def test_truncating_keeps_the_features(tap):
    model, short = build(), build()
    x = torch.randn(1, 3, 32, 32)
    short.truncate([tap])
    assert torch.equal(
        model.features(x, 3, [tap])[tap], short.features(x, 3, [tap])[tap]
    )
    if tap != 'up.2':
        count = sum(p.numel() for p in model.parameters())
        assert sum(p.numel() for p in short.parameters()) < count
    with pytest.raises(RuntimeError, match='truncated'):
        short.predict(x, 3)
    with pytest.raises(RuntimeError, match='truncated'):
        short.save_pretrained('nowhere')


@pytest.mark.parametrize('kind', VARIANTS)
def test_gradient_to_the_input_is_exact(kind):
    """Finite differences along random directions, in double precision."""
    if kind == 'skip':
        needs_torch((2, 4), 'a skip block in double precision')
    model = build(VARIANTS[kind]).double()
    x = torch.randn(1, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    taps = ['down.0', 'up.2' if kind != 'no-mid' else 'up.1']
    t = 5

    def value(image):
        noisy = model.add_noise(image, 5, torch.ones_like(image))
        return sum(f.square().sum() for f in model.features(noisy, t, taps).values())

    (grad,) = torch.autograd.grad(value(x), x)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        direction = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        step = 1e-4 * direction
        with torch.no_grad():
            slope = (value(x + step) - value(x - step)) / 2e-4
        assert (grad * direction).sum().item() == pytest.approx(slope.item(), rel=1e-4)


def test_unknown_taps_and_sizes():
    model = build()
    x = torch.randn(1, 3, 32, 32)
    with pytest.raises(ValueError, match=r"no tap 'up.9'; the taps .* up.2"):
        model.features(x, 0, ['up.9'])
    count = len(model.feature_info)
    with pytest.raises(ValueError, match=f'out of range; the network has {count}'):
        model.features(x, 0, [count])
    assert list(model.features(x, 0, [-1, 0])) == ['up.2', 'down.0.0']
    with pytest.raises(ValueError, match='pad_size_divisor=4'):
        model.features(torch.randn(1, 3, 30, 32), 0, [0])


def test_a_tap_inside_attention_is_refused_with_what_there_is():
    infos = [FeatureInfo('down.0.0', 4, 1), FeatureInfo('down.0', 4, 2)]
    with pytest.raises(ValueError, match='none inside attention: down.0.0, down.0'):
        resolve_taps(infos, ['down.0.0.attn'])
