"""The door: sources of every kind, and what comes out."""

import pytest
import torch
from conftest import TINY_UNET
from test_ddpm import build
from test_edm import TINY as EDM
from test_latent import CONFIG as LATENT

from mmdiff import DiffusionModel
from mmdiff.diffusion import (
    DDPMDiffusionModel,
    EDMDiffusionModel,
    LatentDiffusionModel,
)


def test_pipeline_folder(tmp_path):
    model = build()
    model.unet.save_pretrained(tmp_path / 'unet')
    model.scheduler.save_pretrained(tmp_path / 'scheduler')
    (tmp_path / 'model_index.json').write_text('{}')
    again = DiffusionModel.from_pretrained(str(tmp_path))
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected, read = model.predict(x, 3), again.predict(x, 3)
    assert torch.allclose(expected, read, atol=1e-6)


def test_wrong_channels_and_other_arguments():
    for source, kwargs, words in (
        ({**TINY_UNET, 'in_channels': 5}, {}, 'has in_channels=5'),
        ({**TINY_UNET, 'out_channels': 5}, {}, 'out_channels=5'),
        (TINY_UNET, dict(patch_size=4), 'patch_size=4 needs in_channels=48'),
        (TINY_UNET, dict(schedule=dict(beta_schedule='odd')), 'is not one that'),
        ({'type': 'Transformer2DModel'}, {}, 'not Transformer2DModel'),
    ):
        with pytest.raises(ValueError, match=words):
            build(source, **kwargs)


KINDS = {
    DDPMDiffusionModel: TINY_UNET,
    EDMDiffusionModel: EDM,
    LatentDiffusionModel: LATENT,
}


@pytest.mark.parametrize('kind', KINDS)
def test_a_source_gives_its_kind_in_eval_mode(kind):
    model = DiffusionModel.from_pretrained(KINDS[kind])
    assert type(model) is kind
    assert not any(module.training for module in model.modules())


def test_two_calls_of_a_prior_with_dropout_are_equal():
    model = DiffusionModel.from_pretrained({**EDM, 'dropout': 0.5})
    with torch.no_grad():
        for parameter in model.parameters():  # its last layers begin near zero
            parameter += 0.1
        x = torch.randn(1, 3, 16, 16)
        assert torch.equal(model.predict(x, 1.0), model.predict(x, 1.0))
        model.train()
        assert not torch.equal(model.predict(x, 1.0), model.predict(x, 1.0))


def test_no_kind_is_built_on_another():
    for kind in KINDS:
        assert not issubclass(kind, tuple(other for other in KINDS if other != kind))


def test_a_source_of_another_kind_is_refused():
    with pytest.raises(ValueError, match='is a DDPMDiffusionModel; load it as'):
        EDMDiffusionModel.from_pretrained(TINY_UNET)
    assert DDPMDiffusionModel.from_pretrained(TINY_UNET).total_stride == 4


def test_every_kind_has_a_range_of_times_and_only_ddpms_count_steps():
    models = {kind: DiffusionModel.from_pretrained(KINDS[kind]) for kind in KINDS}
    for kind, model in models.items():
        low, high = model.time_range
        assert low < model.middle_time < high
        assert hasattr(model, 'num_train_timesteps') == (kind != EDMDiffusionModel)


def test_a_path_is_a_source(tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    again = DiffusionModel.from_pretrained(tmp_path)
    assert again.fingerprint() == model.fingerprint()


def test_saved_weights_may_be_read_by_everybody(tmp_path):
    build(LATENT).save_pretrained(tmp_path)
    for part in ('unet', 'vae'):
        weights = tmp_path / part / 'diffusion_pytorch_model.safetensors'
        assert weights.stat().st_mode & 0o444 == 0o444
