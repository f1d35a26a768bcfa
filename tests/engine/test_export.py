import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config, ConfigDict

from mmdiff import DiffusionModel
from mmdiff.engine import export_prior
from mmdiff.engine.export import PriorCard, describe_data
from mmdiff.models import DiffusionPretrainer

LATENT = dict(
    type='LatentDiffusion',
    unet=dict(
        sample_size=8,
        block_out_channels=(4, 8),
        norm_num_groups=2,
        down_block_types=('CrossAttnDownBlock2D', 'DownBlock2D'),
        up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D'),
        attention_head_dim=2,
        cross_attention_dim=8,
    ),
    vae=dict(
        block_out_channels=(4, 4),
        norm_num_groups=2,
        down_block_types=('DownEncoderBlock2D',) * 2,
        up_block_types=('UpDecoderBlock2D',) * 2,
    ),
)


def test_latent_prior_is_exported_with_checksums_of_its_parts(tmp_path):
    model = DiffusionPretrainer(dict(source=LATENT))
    dataset = ConfigDict(data_root='data', data_prefix='train')
    runner = SimpleNamespace(
        model=model,
        hooks=[],
        work_dir=str(tmp_path),
        cfg=ConfigDict(train_dataloader=dict(dataset=dataset, batch_size=2)),
        train_dataloader=SimpleNamespace(dataset=[0, 1]),
        val_loop=None,
        iter=3,
        seed=0,
        world_size=1,
        logger=logging.getLogger(),
    )
    folder = tmp_path / 'prior'
    export_prior(runner, folder, 'command', num=1)
    again = DiffusionModel.from_pretrained(str(folder))
    assert again.fingerprint() == model.diffusion.fingerprint()
    for part in ('unet', 'vae'):
        assert (folder / part / 'SHA256').is_file()
        assert (folder / part).stat().st_mode & 0o111  # still a folder to enter
    again.vae.encoder.conv_in.bias.data += 1
    again.vae.save_pretrained(folder / 'vae')
    with pytest.raises(ValueError, match='does not match the SHA256'):
        DiffusionModel.from_pretrained(str(folder))
    assert torch.isfinite(again.prompt_embeds).all()


def card(**changes):
    values = dict(
        name='prior',
        size=32,
        num_parameters=7_412_345,
        num_classes=10,
        num_images=50000,
        data='`data/a & b`, `train`',
        command="python train.py 'a b'",
        steps=3600,
        batch_size=64,
        seed=0,
        average='exponential moving average',
        dtype='float16',
        held_out={'t_83': 0.2002, 't_250': 0.09784},
    )
    return PriorCard(**{**values, **changes}).render()


def test_card_says_what_was_trained_and_how():
    text = card()
    assert text.startswith('# prior\n\nA diffusion prior of 32 px images: 7.4 M ')
    for words in (
        'parameters, 10 classes.\n\n- Data: 50000 images of `data/a & b`, `train`\n',
        "- Training: `python train.py 'a b'`, 3600 steps of 64 images, seed 0, "
        'exponential moving average, stored as float16\n',
        '- Held-out loss by noise level: t_83 0.2002, t_250 0.0978\n\n',
        '![Loss](loss.png)\n',
    ):
        assert words in text
    assert text.endswith('![Samples](samples.png)\n')


def test_card_of_an_unmeasured_unconditional_prior():
    text = card(num_classes=0, held_out={})
    assert 'parameters, unconditional.\n' in text
    assert '- Held-out loss by noise level: not measured\n' in text


def test_card_names_every_set_that_a_prior_was_trained_on():
    root = Path(__file__).parents[2] / 'configs' / 'pretrain'
    cfg = Config.fromfile(root / 'unet-patch4_1xb32-60000it_photo128.py')
    assert describe_data(cfg.train_dataloader.dataset) == (
        '`data/VOCdevkit/`, `VOC2007/ImageSets/Main/train.txt` and '
        '`data/imagenette160`, `train`'
    )
    one = ConfigDict(data_root='data/cifar10', data_prefix='train')
    assert describe_data(one) == '`data/cifar10`, `train`'
