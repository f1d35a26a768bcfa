"""One pass for all classes: what heads begin with, choose, load and refuse."""

import pytest
import torch
from conftest import TINY_UNET

from mmdiff import DiffusionModel
from mmdiff.diffusion.levels import choose_levels
from mmdiff.diffusion.likelihood import ClassLikelihood
from mmdiff.diffusion.multihead import MultiHeadDiffusionModel

CLASSES = 3
PATCHED = {**TINY_UNET, 'in_channels': 12, 'out_channels': 12}
TEACHER = {**PATCHED, 'num_class_embeds': CLASSES + 1, 'null_class': CLASSES}


def build(source=TEACHER, schedule=None):
    torch.manual_seed(0)
    schedule = schedule or dict(prediction_type='v_prediction')
    return DiffusionModel.from_pretrained(source, schedule).requires_grad_(False)


def heads(source=TEACHER):
    """Heads that differ, as after training."""
    model = MultiHeadDiffusionModel.from_teacher(build(source))
    model.unet.conv_out.weight.data += 0.1 * torch.randn_like(
        model.unet.conv_out.weight
    )
    return model.requires_grad_(False)


def images(count=2):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_every_head_begins_as_the_teacher_without_a_class():
    teacher, x_t, t = build(), images(), torch.tensor([10, 700])
    model = MultiHeadDiffusionModel.from_teacher(teacher)
    assert model.num_classes == CLASSES and model.null_class == CLASSES
    expected = teacher.predict_noise(x_t, t, torch.full((2,), CLASSES))
    for head in model.predict_noises(x_t, t).unbind(1):
        assert torch.allclose(head, expected, atol=1e-5)
    # Without "no class", as with the mean of all classes.
    plain = build({**PATCHED, 'num_class_embeds': CLASSES})
    mean = plain.unet.class_embedding.weight.mean(0, keepdim=True)
    model = MultiHeadDiffusionModel.from_teacher(plain)
    assert model.null_class is None
    plain.unet.class_embedding.weight.data[:] = mean
    expected = plain.predict_noise(x_t, t, torch.tensor([0, 1]))
    assert torch.allclose(model.predict_noises(x_t, t)[:, 2], expected, atol=1e-5)


def test_a_class_chooses_its_head():
    model, x_t, t = heads(), images(), torch.tensor([10, 700])
    noises = model.predict_noises(x_t, t)
    chosen = model.predict_noise(x_t, t, torch.tensor([2, 0]))
    for i, label in enumerate((2, 0)):
        assert torch.allclose(chosen[i], noises[i, label], atol=1e-5)
    assert not torch.allclose(noises[:, 0], noises[:, 1], atol=1e-2)
    free = model.predict_noise(x_t, t)
    guided = model.predict_noises(x_t, t, guidance=0.5)
    expected = 1.5 * noises[:, 1] - 0.5 * free
    assert torch.allclose(guided[:, 1], expected, atol=1e-5)
    assert model.sample((2, 32, 32), 2, cond=torch.tensor([0, 1])).shape[0] == 2
    assert model.features(x_t, t, ['mid'])['mid'].shape[0] == 2


def test_logits_take_one_pass_for_all_classes_and_are_differentiable():
    model, x, grads = heads(), images(), []
    levels, sizes = choose_levels(model, 5), []
    model.unet.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    likelihood = ClassLikelihood(model, levels, chunk_size=1000)
    logits = likelihood.class_logits(x)
    assert logits.shape == (2, CLASSES) and sum(sizes) == 2 * 5
    assert likelihood.passes == 5
    # What the naive way gives, class by class.
    draws, label = likelihood.draw(), torch.ones(5, dtype=torch.long)
    rows = torch.arange(5)
    errors = likelihood.pair_errors(x, draws, rows, torch.zeros_like(rows), label)
    assert logits[0, 1].item() == pytest.approx(-errors.mean().item(), rel=1e-4)
    for chunk_size in (1000, 3):
        leaf = x.clone().requires_grad_()
        again = ClassLikelihood(model, levels, chunk_size=chunk_size)
        score = again.class_logits(leaf)[:, 1].sum()
        grads.append(torch.autograd.grad(score, leaf)[0])
    assert torch.allclose(*grads, atol=1e-3 * grads[0].abs().max().item())
    assert grads[0].abs().max() > 0


def test_a_saved_folder_is_a_source(tmp_path):
    model = heads()
    model.save_pretrained(tmp_path)
    again = DiffusionModel.from_pretrained(tmp_path)
    assert type(again) is MultiHeadDiffusionModel and again.patch_size == 2
    assert again.fingerprint() == model.fingerprint()
    assert torch.equal(again.alphas_cumprod, model.alphas_cumprod)


def test_what_makes_no_heads_is_refused():
    for source, message in (
        (PATCHED, 'no table of classes to make heads of'),
        (
            dict(
                type='EDMPrecond',
                img_resolution=16,
                img_channels=3,
                label_dim=3,
                model_type='SongUNet',
                model_channels=8,
                channel_mult=(1, 2),
                num_blocks=1,
            ),
            'not from EDMPrecond',
        ),
    ):
        with pytest.raises(ValueError, match=message):
            MultiHeadDiffusionModel.from_teacher(DiffusionModel.from_pretrained(source))
    for change, message in (
        (dict(out_channels=24, num_class_heads=3), 'gives back|has out_channels=36'),
        (dict(out_channels=36, num_class_heads=3, null_class=1), 'the last of 3'),
        (
            dict(out_channels=36, num_class_heads=3, num_class_embeds=3),
            'no num_class_embeds',
        ),
    ):
        with pytest.raises(ValueError, match=message):
            build({**PATCHED, **change})
    plain = heads({**PATCHED, 'num_class_embeds': CLASSES})
    with pytest.raises(ValueError, match='a head for each class and none for'):
        plain.predict_noise(images(), 9)
    with pytest.raises(ValueError, match='needs a head of "no class"'):
        ClassLikelihood(plain, choose_levels(plain, 3), guidance=1.0)
    with pytest.raises(ValueError, match='guidance=1.0 is of multi-head priors'):
        ClassLikelihood(build(), choose_levels(build(), 3), guidance=1.0)
    with pytest.raises(ValueError, match='do not depend on a class'):
        plain.features(images(), 9, ['mid'], torch.tensor([0, 1]))
    with pytest.raises(ValueError, match='do not depend on a class'):
        plain.check_condition(1)
