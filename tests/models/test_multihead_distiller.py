"""Heads learn from the teacher, class by class."""

from pathlib import Path

import pytest
import torch
from conftest import TINY_UNET
from mmengine.config import Config

from mmdiff.models import MultiHeadDistiller
from mmdiff.registry import MODELS

CONFIGS = sorted((Path(__file__).parents[2] / 'configs' / 'distillation').glob('*.py'))
TEACHER = {**TINY_UNET, 'sample_size': 16, 'num_class_embeds': 4, 'null_class': 3}


def build(**kwargs):
    torch.manual_seed(0)
    model = MultiHeadDistiller(dict(source=TEACHER), **kwargs)
    model.teacher.unet.class_embedding.weight.data *= 3  # classes that differ
    return model


def test_the_loss_is_the_distance_to_the_teacher_of_each_class():
    model = build()
    x, noise = torch.rand(2, 3, 16, 16), torch.randn(2, 3, 16, 16)
    t = torch.tensor([30, 600])
    x_t = model.diffusion.add_noise(x, t, noise)
    outputs, total = model.diffusion.predict_heads(x_t, t), 0
    for head in range(4):
        target = model.teacher.predict(x_t, t, torch.full((2,), head))
        total += (outputs[:, head] - target).square().mean((1, 2, 3)) / 4
    assert torch.allclose(model._loss(x, t, noise, None), total, rtol=1e-4)


def test_training_brings_heads_nearer_to_the_teacher_and_leaves_it_alone():
    model = build(heads_per_step=2).train()
    assert not model.teacher.training and model.diffusion.unet.training
    before = {k: v.clone() for k, v in model.teacher.state_dict().items()}
    x = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    samples = [{'img_id': i} for i in range(8)]
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, 3e-3)

    def held_out():
        with torch.no_grad():
            rows = model.eval()(x, samples, mode='predict')
        return sum(sum(row.values()) for row in rows)

    first = held_out()
    assert held_out() == first  # all heads, in whatever order they train
    for _ in range(30):
        loss = model.train()(x, mode='loss')['loss']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert held_out() < 0.7 * first
    state = model.teacher.state_dict()
    assert all(torch.equal(v, before[k]) for k, v in state.items())


def test_heads_that_are_not_there_are_refused():
    for count in (0, 5):
        with pytest.raises(ValueError, match=f'heads_per_step={count} must be 1 to 4'):
            build(heads_per_step=count)
    with pytest.raises(ValueError, match='no table of classes'):
        MultiHeadDistiller(dict(source=TINY_UNET))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_configs_of_distillation_train_a_step(path):
    cfg = Config.fromfile(path)
    assert cfg.train_cfg.max_iters >= cfg.param_scheduler[-1].end
    model = MODELS.build(dict(cfg.model, autocast=None))
    pixels = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    data = model.data_preprocessor(dict(inputs=list(pixels)), training=True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    assert 0 < loss < 0.1  # it begins as the teacher without a class
