"""Files of a prior that are missing, damaged or of something else."""

import json

import pytest
from test_ddpm import build

from mmdiff import DiffusionModel


def broken_weights(folder):
    build().save_pretrained(folder)
    weights = folder / 'diffusion_pytorch_model.safetensors'
    weights.write_bytes(weights.read_bytes()[:-100])


def no_weights(folder):
    build().save_pretrained(folder)
    (folder / 'diffusion_pytorch_model.safetensors').unlink()


def no_schedule(folder):
    build().save_pretrained(folder)
    (folder / 'scheduler_config.json').unlink()


def other_width(folder):
    build().save_pretrained(folder)
    config = json.loads((folder / 'config.json').read_text())
    config['block_out_channels'] = [4, 8, 16]
    (folder / 'config.json').write_text(json.dumps(config))


def other_class(folder):
    build().save_pretrained(folder)
    config = json.loads((folder / 'config.json').read_text())
    config['_class_name'] = 'UNet2DConditionModel'
    (folder / 'config.json').write_text(json.dumps(config))


@pytest.mark.parametrize(
    'spoil, error, words',
    [
        (broken_weights, ValueError, 'cut short or damaged'),
        (no_weights, FileNotFoundError, 'no weights'),
        (no_schedule, FileNotFoundError, 'no scheduler_config.json'),
        (other_width, ValueError, 'do not fit its config.json'),
        (other_class, ValueError, 'holds a UNet2DConditionModel'),
        (lambda folder: None, FileNotFoundError, 'no config.json'),
    ],
)
def test_bad_folders_are_one_sentence(tmp_path, spoil, error, words):
    spoil(tmp_path)
    with pytest.raises(error, match=words) as caught:
        DiffusionModel.from_pretrained(str(tmp_path))
    assert '\n' not in str(caught.value)


def test_changed_weights_do_not_match_their_checksum(tmp_path):
    """A SHA256 file beside the weights is compared on loading."""
    import hashlib

    model = build()
    model.save_pretrained(tmp_path)
    weights = tmp_path / 'diffusion_pytorch_model.safetensors'
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    (tmp_path / 'SHA256').write_text(f'{digest}  {weights.name}\n')
    DiffusionModel.from_pretrained(str(tmp_path))
    model.unet.conv_in.bias.data += 1
    model.unet.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match='does not match the SHA256 file'):
        DiffusionModel.from_pretrained(str(tmp_path))
