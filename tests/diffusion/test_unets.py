"""Networks with settings that diffusers lacks."""

import pytest
import torch
from conftest import TINY_UNET
from test_ddpm import build

from mmdiff import DiffusionModel


def test_settings_that_diffusers_lacks_come_back(tmp_path):
    """Heads fixed over levels, another width of the time embedding, "no class"."""
    extra = dict(
        num_attention_heads=2,
        time_proj_channels=16,
        num_class_embeds=4,
        null_class=3,
        attn_norm_num_groups=2,
    )
    model = build({**TINY_UNET, **extra, 'attention_head_dim': 8})
    attention = model.unet.mid_block.attentions[0]
    assert attention.heads == 2 and attention.scale == 4**-0.5
    assert model.unet.time_embedding.linear_1.in_features == 16
    assert model.num_classes == 3 and model.null_class == 3
    model.save_pretrained(tmp_path)
    again = DiffusionModel.from_pretrained(str(tmp_path)).eval()
    assert again.unet.mid_block.attentions[0].heads == 2
    assert again.num_classes == 3
    x, label = torch.randn(1, 3, 32, 32), torch.tensor([1])
    with torch.no_grad():
        assert torch.equal(model.predict(x, 3, label), again.predict(x, 3, label))
        random = DiffusionModel.from_pretrained(str(tmp_path), random_weights=True)
        assert not torch.equal(random.unet.conv_in.weight, again.unet.conv_in.weight)
    weights = tmp_path / 'diffusion_pytorch_model.safetensors'
    weights.unlink()
    with pytest.raises(FileNotFoundError, match='no weights'):
        DiffusionModel.from_pretrained(str(tmp_path))
