"""The door: sources of every kind, and what comes out."""

import pytest
import torch
from conftest import TINY_UNET
from test_ddpm import build

from mmdiff import DiffusionModel


def test_pipeline_folder(tmp_path):
    model = build()
    model.unet.save_pretrained(tmp_path / 'unet')
    model.scheduler.save_pretrained(tmp_path / 'scheduler')
    (tmp_path / 'model_index.json').write_text('{}')
    again = DiffusionModel.from_pretrained(str(tmp_path))
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected, found = model.predict(x, 3), again.eval().predict(x, 3)
    assert torch.allclose(expected, found, atol=1e-6)


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
