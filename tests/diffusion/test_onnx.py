"""What is exported to ONNX gives the features of the model."""

import pytest
import torch
from conftest import TINY_UNET
from test_latent import CONFIG

from mmdiff.models import DiffusionUNet

pytest.importorskip('onnx', reason='onnx is not installed')
onnxruntime = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')

EDM = dict(
    type='EDMPrecond',
    img_resolution=16,
    img_channels=3,
    model_type='SongUNet',
    model_channels=8,
    channel_mult=(1, 2),
    num_blocks=1,
)
LATENT = dict(source=CONFIG, latent='sample')


@pytest.mark.parametrize('size', [32, 96], ids=['in-the-buffer', 'beyond-the-buffer'])
def test_features_of_a_pixel_prior(tmp_path, size):
    check(tmp_path, DiffusionUNet(TINY_UNET, timestep=10, out_indices=(0, 'mid')), size)


def test_features_of_an_edm_prior(tmp_path):
    """Through torch.export: its tracer makes no ONNX of the EDM networks."""
    pytest.importorskip('onnxscript', reason='onnxscript is not installed')
    model = DiffusionUNet(EDM, sigma=0.1, out_indices=('down.0', 'mid'))
    check(tmp_path, model, 16, dynamo=True)


def test_features_of_a_latent_prior(tmp_path):
    model = DiffusionUNet(LATENT, timestep=10, out_indices=('up.1', 'up.2'))
    check(tmp_path, model, 64)


def check(folder, model, size, dynamo=False):
    model.eval()
    x, other = torch.randn(2, 2, 3, size, size)
    file = str(folder / 'prior.onnx')
    with torch.no_grad():
        expected = model(other)
        torch.onnx.export(model, (x,), file, input_names=['image'], dynamo=dynamo)
    session = onnxruntime.InferenceSession(file, providers=['CPUExecutionProvider'])
    for _ in range(2):
        outputs = session.run(None, {'image': other.numpy()})
        for one, feature in zip(expected, outputs, strict=True):
            assert torch.allclose(one, torch.from_numpy(feature), atol=1e-4)
