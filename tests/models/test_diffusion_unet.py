import copy

import pytest
import torch
from conftest import TINY_UNET, batch_of
from mmengine.logging import MMLogger
from mmengine.runner import load_checkpoint, save_checkpoint

from mmdiff.diffusion import DiffusionModel
from mmdiff.models import DiffusionFPN, DiffusionUNet


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    DiffusionModel.from_pretrained(TINY_UNET).save_pretrained(tmp_path / 'prior')
    return str(tmp_path / 'prior')


def build(model=TINY_UNET, **kwargs):
    torch.manual_seed(0)
    args = dict(timestep=10, out_indices=('mid', 'down.0.0', 'up.1'))
    return DiffusionUNet(model, **{**args, **kwargs})


def test_low_stride_first():
    model = build()
    assert [info.name for info in model.out_taps] == ['down.0.0', 'up.1', 'mid']
    shapes = [tuple(f.shape) for f in model(torch.zeros(2, 3, 32, 32))]
    assert shapes == [(2, 4, 32, 32), (2, 8, 32, 32), (2, 8, 8, 8)]
    taps = [(info.channels, 32 // info.stride) for info in model.out_taps]
    assert taps == [(c, s) for _, c, s, _ in shapes]
    by_index = build(
        out_indices=[info.name for info in model.feature_info].index('mid')
    )
    assert [info.name for info in by_index.out_taps] == ['mid']


@pytest.mark.parametrize('noise', ['none', 'fixed', 'fresh', 'shared'])
@pytest.mark.parametrize('training', [False, True])
def test_frozen_lets_gradients_to_the_input(noise, training):
    model = build(noise=noise).train(training)
    assert not any(p.requires_grad for p in model.parameters())
    assert not any(m.training for m in model.model.modules())
    x = torch.randn(2, 3, 32, 32, requires_grad=True)
    sum(f.square().sum() for f in model(x)).backward()
    assert (x.grad.flatten(1).abs().sum(1) > 0).all()
    assert all(p.grad is None for p in model.parameters())


def test_not_frozen_trains_every_parameter():
    model = build(frozen=False, out_indices=('down.0', 'up.1')).train()
    assert model.model.training
    sum(f.square().sum() for f in model(torch.randn(1, 3, 32, 32))).backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert missing == []  # DDP needs no find_unused_parameters


@pytest.mark.parametrize('tap', ['up.1.0', 'down.1.0', 'mid'])
def test_a_layer_tap_leaves_little_unused(tap):
    """Blocks past the deepest tap are gone."""
    model = build(frozen=False, out_indices=(tap,))
    model(torch.randn(1, 3, 32, 32))[0].sum().backward()
    unused = {n.split('.')[2] for n, p in model.named_parameters() if p.grad is None}
    assert unused <= {f'{tap.split(".")[0]}_blocks'}


def test_fixed_noise_is_one_per_position():
    """The same for every image, batch size, call, and canvas."""
    model = build(out_indices=('down.0.0',))
    torch.manual_seed(1)
    x = torch.randn(3, 3, 64, 96)
    together = model(x)[0]
    for i in range(3):
        assert torch.allclose(model(x[i : i + 1])[0][0], together[i], atol=1e-5)
    padded = torch.nn.functional.pad(x, (0, 64, 0, 32))
    draw = model._draw(padded, 0)[..., :64, :96]
    assert torch.equal(draw, model._draw(x, 0))
    assert abs(draw.std() - 1) < 0.02 and abs(draw.mean()) < 0.02
    other = build(out_indices=('down.0.0',), noise_seed=1)
    assert not torch.allclose(other(x)[0], together, atol=1e-2)


def test_fresh_noise_differs_and_averaging_calms_it():
    x = torch.zeros(1, 3, 32, 32)

    def spread(num_noise):
        model = build(noise='fresh', timestep=500, num_noise=num_noise)
        torch.manual_seed(0)
        return torch.stack([model(x)[0] for _ in range(8)]).std(0).mean()

    one, many = spread(1), spread(16)
    assert one > 0 and many < 0.5 * one


def test_shared_noise_is_one_for_a_batch_and_another_in_each_pass():
    model = build(noise='shared', timestep=500, num_noise=2)
    x = torch.randn(1, 3, 32, 32).expand(3, -1, -1, -1)
    torch.manual_seed(0)
    first, second = model(x)[0], model(x)[0]
    assert torch.allclose(first[0], first[1], atol=1e-5)
    assert not torch.allclose(first, second, atol=1e-2)
    torch.manual_seed(0)
    alone = model(x[:1])[0]  # so many random numbers whatever the batch
    assert torch.allclose(alone[0], first[2], atol=1e-5)
    assert not model.gives_constant_features
    assert not build(noise='fresh').gives_constant_features
    assert build(noise='fixed').gives_constant_features


def test_no_noise_scales_only():
    model = build(noise='none', out_indices=('down.0.0',))
    x = torch.randn(1, 3, 32, 32)
    alpha = model.model.alphas_cumprod[10].sqrt()
    expected = model.model.features(alpha * x, 10, ['down.0.0'])['down.0.0']
    assert torch.equal(model(x)[0], expected)


def test_checkpointing_gives_the_same():
    plain, saving = build(), build(with_cp=True)
    x = torch.randn(1, 3, 32, 32, requires_grad=True)
    grads = [
        torch.autograd.grad(sum(f.sum() for f in m(x)), x)[0] for m in (plain, saving)
    ]
    assert torch.allclose(*grads, atol=1e-6)


@pytest.mark.parametrize(
    'kwargs, words',
    [
        (
            dict(timestep=None),
            'got neither timestep nor sigma.* give timestep, 0 to 999',
        ),
        (dict(sigma=0.5), 'got timestep=10 and sigma=0.5.*give timestep.*alone'),
        (dict(timestep=None, sigma=0.5), 'got sigma=0.5.*give timestep'),
        (dict(timestep=1000), 'timestep=1000 is out of range'),
        (dict(out_indices=('up.7',)), "no tap 'up.7'"),
        (dict(out_indices=(99,)), 'Tap index 99 is out of range'),
        (dict(noise='pink'), "noise='pink' is unknown"),
        (dict(noise='none', num_noise=4), 'makes no sense'),
        (dict(num_noise=0), 'makes no sense'),
    ],
)
def test_bad_arguments_are_one_sentence(kwargs, words):
    with pytest.raises(ValueError, match=words) as caught:
        build(**kwargs)
    assert '\n' not in str(caught.value)


def test_bad_size_names_the_divisor():
    with pytest.raises(ValueError, match='30x32 .*pad_size_divisor=4'):
        build()(torch.zeros(1, 3, 30, 32))


def detector(make_detector, folder, **kwargs):
    return make_detector('faster-rcnn', 'diffusion', model=folder, **kwargs)


def test_frozen_weights_stay_out_and_come_back(make_detector, folder, tmp_path, caplog):
    model = detector(make_detector, folder)
    state = model.state_dict()
    assert not any('unet' in key for key in state)
    assert any(key.startswith('neck.') for key in state)
    file = str(tmp_path / 'checkpoint.pth')
    save_checkpoint(dict(state_dict=state), file)
    again = detector(make_detector, folder)
    for parameter in again.parameters():
        if parameter.requires_grad:
            parameter.data.zero_()
    with caplog.at_level('WARNING'):
        load_checkpoint(again, file)
        again.load_state_dict(state)  # torch's own, strict
    assert 'missing' not in caplog.text
    batch = batch_of()
    with torch.no_grad():
        old = model.test_step(copy.deepcopy(batch))[0].pred_instances
        new = again.test_step(copy.deepcopy(batch))[0].pred_instances
    assert torch.equal(old.scores, new.scores) and len(old.scores)


def test_really_missing_keys_are_still_named(make_detector, folder):
    model = detector(make_detector, folder)
    state = model.state_dict()
    del state['neck.projections.0.0.weight']
    with pytest.raises(RuntimeError, match='neck.projections.0.0.weight'):
        model.load_state_dict(state)


def test_another_prior_is_refused(make_detector, folder, tmp_path):
    state = detector(make_detector, folder).state_dict()
    torch.manual_seed(99)
    DiffusionModel.from_pretrained(TINY_UNET).save_pretrained(tmp_path / 'other')
    other = detector(make_detector, str(tmp_path / 'other'))
    with pytest.raises(ValueError, match='another frozen prior'):
        other.load_state_dict(state)


def test_weights_that_exist_nowhere_else_are_saved(make_detector, folder):
    assert any('unet' in k for k in make_detector().state_dict())  # random, frozen
    assert any(
        'unet' in k for k in detector(make_detector, folder, frozen=False).state_dict()
    )
    kept = detector(make_detector, folder, save_frozen=True)
    assert any('unet' in k for k in kept.state_dict())


def test_init_weights_keeps_the_prior(folder):
    model = build(folder)
    before = copy.deepcopy(model.model.state_dict())
    model.init_weights()
    for key, value in before.items():
        assert torch.equal(value, model.model.state_dict()[key])


def test_builds_in_both_scopes():
    import mmpretrain.registry
    from mmdet.registry import MODELS as MMDET

    cfg = dict(type='mmdiff.DiffusionUNet', model=TINY_UNET, timestep=1)
    for registry in (MMDET, mmpretrain.registry.MODELS):
        assert isinstance(registry.build(copy.deepcopy(cfg)), DiffusionUNet)


def test_arguments_of_from_pretrained_go_into_model(folder, tmp_path):
    cache = str(tmp_path / 'cache')
    source = dict(source=folder, cache_dir=cache, dtype='bfloat16')
    assert build(source).model.unet.dtype == torch.bfloat16
    with pytest.raises(TypeError, match='cache_dir'):
        build(folder, cache_dir=cache)  # the backbone has no argument of its own


def test_what_a_neck_needs_is_said_and_logged(caplog):
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)  # mmengine's loggers are apart from the others
    try:
        model = build()
    finally:
        logger.removeHandler(caplog.handler)
    assert model.out_channels == [4, 8, 8] and model.out_strides == [1, 1, 4]
    text = 'neck=dict(in_channels=[4, 8, 8], in_strides=[1, 1, 4])'
    assert text in caplog.text
    neck = DiffusionFPN(model.out_channels, model.out_strides, 8, (2, 4))
    levels = neck(model(torch.zeros(1, 3, 32, 32)))
    assert [level.shape[-1] for level in levels] == [16, 8]


EDM = dict(
    type='EDMPrecond',
    img_resolution=16,
    img_channels=3,
    model_type='SongUNet',
    model_channels=8,
    channel_mult=(1, 2),
    num_blocks=1,
    dropout=0.5,
)


@pytest.mark.parametrize('frozen', [True, False])
def test_dropout_is_active_in_training_of_a_prior_that_is_not_frozen(frozen):
    torch.manual_seed(0)
    model = DiffusionUNet(EDM, sigma=0.5, out_indices=('mid',), frozen=frozen)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        x = torch.randn(1, 3, 16, 16)
        assert model.training and model.model.training == (not frozen)
        assert torch.equal(model(x)[0], model(x)[0]) == frozen
        model.eval()
        assert torch.equal(model(x)[0], model(x)[0])
