import logging
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import ConfigDict

from mmdiff import DiffusionModel
from mmdiff.engine import export_prior
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
