"""What a prior learns from, and how its loss is measured."""

import pytest
import torch
from conftest import TINY_UNET
from mmpretrain.structures import DataSample

from mmdiff.models import DiffusionPretrainer

LABELLED = {**TINY_UNET, 'sample_size': 16, 'num_class_embeds': 4, 'null_class': 3}
EDM = dict(
    type='EDMPrecond',
    img_resolution=16,
    img_channels=3,
    label_dim=3,
    label_dropout=0.1,
    model_type='SongUNet',
    model_channels=8,
    channel_mult=(1, 2),
    num_blocks=1,
    attn_resolutions=(8,),
)
SOURCES = {
    'epsilon': dict(source=LABELLED),
    'v': dict(source=LABELLED, schedule=dict(prediction_type='v_prediction')),
    'edm': dict(source=EDM),
}


def build(kind='epsilon', **kwargs):
    torch.manual_seed(0)
    return DiffusionPretrainer(SOURCES[kind], **kwargs)


def batch(count=4, size=16):
    torch.manual_seed(1)
    samples = [
        DataSample(metainfo=dict(img_path=f'{i}.png')).set_gt_label(i % 3)
        for i in range(count)
    ]
    colours = torch.rand(count, 3, 1, 1) * 2 - 1
    return colours.expand(-1, -1, size, size).clone(), samples


@pytest.mark.parametrize('kind', SOURCES)
def test_a_few_steps_lower_the_held_out_loss(kind):
    model = build(kind, label_dropout=0.1)
    x, samples = batch()

    def held_out():
        model.eval()
        with torch.no_grad():
            results = model(x, samples, mode='predict')
        model.train()
        return sum(sum(r.values()) for r in results)

    before = held_out()
    assert before == held_out()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        model(x, samples, mode='loss')['loss'].backward()
        optimizer.step()
    assert held_out() < 0.95 * before


@pytest.mark.parametrize('kind', SOURCES)
def test_held_out_loss_does_not_depend_on_the_batch(kind):
    model = build(kind).eval()
    x, samples = batch()
    with torch.no_grad():
        together = model(x, samples, mode='predict')
        alone = model(x[2:3], samples[2:3], mode='predict')
    assert len(together[0]) == 6
    assert together[2].keys() == alone[0].keys()
    for key, value in alone[0].items():
        assert together[2][key] == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize('kind', ['v', 'edm'])
def test_dropped_labels_are_no_class(kind, monkeypatch):
    """With dropout of everything the labels make no difference."""
    model = build(kind, label_dropout=1.0)
    seen = []
    loss = model.diffusion.diffusion_loss
    monkeypatch.setattr(
        model.diffusion,
        'diffusion_loss',
        lambda x, t, n, cond: seen.append(cond) or loss(x, t, n, cond),
    )
    x, samples = batch()
    model(x, samples, mode='loss')
    assert seen[0].tolist() == [model.diffusion.null_class] * 4
    model.label_dropout = 0.0
    model(x, samples, mode='loss')
    assert seen[1].tolist() == [0, 1, 2, 0]


def test_errors_are_one_sentence():
    with pytest.raises(ValueError, match='label_dropout=0.1 needs'):
        DiffusionPretrainer(dict(source=TINY_UNET), label_dropout=0.1)
    x, _ = batch()
    with pytest.raises(ValueError, match='no gt_label'):
        build()(x, [DataSample()] * 4, mode='loss')


def test_autocast_keeps_the_loss_in_full_precision():
    x, samples = batch()
    torch.manual_seed(2)
    full = build()(x, samples, mode='loss')['loss']
    torch.manual_seed(2)
    mixed = build(autocast='bfloat16')(x, samples, mode='loss')['loss']
    assert mixed.dtype == torch.float32
    assert mixed.item() == pytest.approx(full.item(), rel=0.05)
    assert mixed.item() != full.item()


def test_a_new_pretrainer_is_in_training_mode_all_through():
    """Priors come in eval mode: dropout must be on without a call of train()."""
    model = build('edm')
    assert model.training and all(m.training for m in model.diffusion.modules())
