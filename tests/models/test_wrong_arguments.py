"""Mistakes are found when a prior's model is built; casts stay exact."""

import pytest
import torch
from conftest import TINY_UNET, batch_of, needs_torch
from test_diffusion_unet import EDM, build

from mmdiff.diffusion import DiffusionModel
from mmdiff.models import DiffusionPretrainer, DiffusionUNet

CLASSES = {**TINY_UNET, 'num_class_embeds': 3}
NULL = {**TINY_UNET, 'num_class_embeds': 4, 'null_class': 3}
LABELLED_EDM = {**EDM, 'label_dim': 3}


@pytest.mark.parametrize(
    'model, kwargs, words',
    [
        (TINY_UNET, dict(timestep=10.0), 'timestep=10.0 is no whole number'),
        (TINY_UNET, dict(timestep='10'), "timestep='10' is no whole number"),
        (TINY_UNET, dict(timestep=True), 'timestep=True is no whole number'),
        (TINY_UNET, dict(condition=0), 'is unconditional'),
        (TINY_UNET, dict(out_indices=()), 'No tap is given; name one'),
        (TINY_UNET, dict(out_indices=(1.0,)), 'a name or a whole number, not 1.0'),
        (TINY_UNET, dict(out_indices=(True,)), 'a name or a whole number, not True'),
        (TINY_UNET, dict(noise_seed='a'), "noise_seed='a' must be a whole number"),
        (TINY_UNET, dict(num_noise=2.5), "num_noise=2.5 with noise='fixed' makes no"),
        (TINY_UNET, dict(frozen='no'), "frozen='no' must be True or False"),
        (TINY_UNET, dict(with_cp='no'), "with_cp='no' must be True or False"),
        (CLASSES, {}, 'is class-conditional: give a class .condition.*0 to 2'),
        (CLASSES, dict(condition=3), 'condition=3 is out of range.*0 to 2'),
        (CLASSES, dict(condition=-1), 'condition=-1 is out of range'),
        (CLASSES, dict(condition=1.0), 'condition=1.0 is no class'),
        (CLASSES, dict(condition='cat'), "condition='cat' is no class"),
        (NULL, dict(condition=4), 'condition=4 is out of range.*0 to 3'),
        (EDM, dict(timestep=None, sigma='low'), "sigma='low' is no number"),
        (EDM, dict(timestep=None, sigma=1.0, condition=0), 'is unconditional'),
        (LABELLED_EDM, dict(timestep=None, sigma=1.0, condition=5), 'out of range'),
    ],
)
def test_wrong_times_and_classes_are_found_at_construction(model, kwargs, words):
    with pytest.raises(ValueError, match=words) as caught:
        build(model, **kwargs)
    assert '\n' not in str(caught.value)


def test_every_class_and_no_class_of_a_prior_can_be_asked_for():
    x = torch.zeros(1, 3, 32, 32)
    for model, label in ((CLASSES, 2), (NULL, 3)):
        assert len(build(model, condition=label)(x)) == 3
    edm = DiffusionUNet(LABELLED_EDM, sigma=1.0, out_indices=('mid',))
    assert len(edm(x)) == 1


@pytest.mark.parametrize('noise', ['fixed', 'fresh', 'shared', 'none'])
def test_grey_images_are_refused(noise):
    """Noise of three channels would be broadcast over them."""
    with pytest.raises(ValueError, match='not .N, 3, H, W.*load them in colour'):
        build(noise=noise)(torch.zeros(1, 1, 32, 32))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('timestep', [0, 5, 10])
def test_a_cast_backbone_has_the_exact_noise_level(dtype, timestep):
    model = build(timestep=timestep)
    x0 = torch.zeros(1, 3, 32, 32)
    _, exact = model.model.signal_and_noise(model.time, x0)
    model.to(dtype)
    _, sigma = model.model.signal_and_noise(model.time, x0)
    assert torch.equal(sigma, exact) and sigma > 0


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_a_cast_backbone_gives_features_in_the_precision_of_the_image(dtype):
    if dtype == torch.float16:
        needs_torch((2, 4), 'half precision on a CPU')
    model, cast = build(), build().to(dtype)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        for exact, feature in zip(model(x), cast(x.to(dtype))):
            assert feature.dtype == dtype
            assert (feature.float() - exact).norm() < 0.05 * exact.norm()
        assert {f.dtype for f in cast(x)} == {torch.float32}


def test_the_sigma_of_a_cast_backbone_stays_exact():
    model = DiffusionUNet(EDM, sigma=0.0599, out_indices=('mid',))
    exact = model.time.clone()
    for cast in (model.bfloat16, model.half, model.float):
        cast()
        assert model.time.dtype == torch.float32 and torch.equal(model.time, exact)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_what_a_cast_prior_gives_has_the_precision_of_what_it_gets(dtype):
    if dtype == torch.float16:
        needs_torch((2, 4), 'half precision on a CPU')
    prior = DiffusionModel.from_pretrained(TINY_UNET).to(dtype)
    x = torch.randn(2, 3, 32, 32).to(dtype)
    x_t = prior.add_noise(x, 10, torch.randn_like(x))
    outputs = [x_t, prior.predict_noise(x_t, 10), prior.predict_x0(x_t, 10)]
    outputs += prior.features(x_t, 10, ['mid', 'down.0.0']).values()
    assert {output.dtype for output in outputs} == {dtype}


def test_a_cast_detector_runs_to_its_pyramid(make_detector):
    model = make_detector('retinanet', 'diffusion').to(torch.bfloat16)
    batch = model.data_preprocessor(batch_of([(3, 64, 64)]), True)
    levels = model.extract_feat(batch['inputs'].to(torch.bfloat16))
    assert {level.dtype for level in levels} == {torch.bfloat16}
    assert all(level.isfinite().all() for level in levels)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    DiffusionModel.from_pretrained(TINY_UNET).save_pretrained(tmp_path / 'prior')
    return str(tmp_path / 'prior')


@pytest.mark.parametrize('saved, loaded', [('bf16', None), (None, 'bf16')])
def test_a_checkpoint_fits_its_prior_in_any_precision(folder, saved, loaded):
    state = build(dict(source=folder, dtype=saved)).state_dict()
    build(dict(source=folder, dtype=loaded)).load_state_dict(state)


@pytest.mark.parametrize('dtype', [None, 'bf16'])
def test_a_checkpoint_with_the_fingerprint_of_cast_weights_still_fits(folder, dtype):
    """They were written when a prior was cast before it was identified."""
    model = build(dict(source=folder))
    state = model.state_dict()
    model.model.cast('bfloat16')
    state['fingerprint'] = torch.tensor(
        list(model.model.fingerprint()), dtype=torch.uint8
    )
    build(dict(source=folder, dtype=dtype)).load_state_dict(state)
    torch.manual_seed(5)
    state['fingerprint'] = torch.randint(256, (32,), dtype=torch.uint8)
    with pytest.raises(ValueError, match='another frozen prior'):
        build(dict(source=folder, dtype=dtype)).load_state_dict(state)


def test_a_prior_without_a_size_is_refused_before_it_is_trained():
    source = {**TINY_UNET, 'sample_size': None}
    with pytest.raises(ValueError, match='set sample_size in its config'):
        DiffusionPretrainer(dict(source=source))
    odd = {**TINY_UNET, 'sample_size': 30}
    with pytest.raises(ValueError, match='30x30 does not divide by the stride'):
        DiffusionPretrainer(dict(source=odd))
    DiffusionPretrainer(dict(source={**TINY_UNET, 'sample_size': (16, 32)}))
