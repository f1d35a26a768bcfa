"""Every config builds, trains one step, is attacked one step."""

import copy
from pathlib import Path

import pytest
import torch
from conftest import batch_of
from mmdet.registry import MODELS
from mmengine.config import Config

from mmdiff import DAG, PGD, config_path
from mmdiff.registry import ATTACKS

ROOT = Path(__file__).parents[1] / 'configs'
DETECTION = sorted(path.name for path in (ROOT / 'detection').glob('*.py'))
PRETRAIN = sorted(path.name for path in (ROOT / 'pretrain').glob('*.py'))


def load(folder, name):
    cfg = Config.fromfile(ROOT / folder / name)
    if folder == 'detection' and 'voc07-unet' in name:
        # The prior is made by the user: its config with random weights stands in.
        pretrain = Config.fromfile(ROOT / 'pretrain' / 'unet-patch4_voc07.py')
        cfg.model.backbone.model = pretrain.model.model
    return cfg


@pytest.mark.parametrize('name', DETECTION)
def test_detector_trains_and_is_attacked(name):
    cfg = load('detection', name)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], 1e-4
    )
    batch = batch_of([(3, 64, 96)] * 2, (2, 1))
    before = {k: v.clone() for k, v in model.named_parameters()}
    data = model.data_preprocessor(copy.deepcopy(batch), training=True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    optimizer.step()
    changed = {k for k, v in model.named_parameters() if not torch.equal(v, before[k])}
    frozen = not any(k.startswith('backbone') for k in changed)
    assert frozen == ('scratch' not in name and 'finetuned' not in name)
    assert any(k.startswith('neck') for k in changed)
    for attack in (PGD(eps=4, steps=1), DAG(eps=4, steps=1, max_proposals=50)):
        adversarial = attack(model.eval(), batch)
        assert torch.isfinite(adversarial[0]).all()
        if isinstance(attack, PGD):
            assert attack.stats.changed == 2 and attack.stats.zero_grads == 0


@pytest.mark.parametrize('name', PRETRAIN)
def test_pretraining_steps(name):
    cfg = load('pretrain', name)
    cfg.model.model.source.update(
        block_out_channels=(16, 16, 16, 16), norm_num_groups=4, attention_head_dim=4
    )
    cfg.model.autocast = None
    model = MODELS.build(cfg.model)
    batch = dict(inputs=[torch.randint(0, 256, (3, 128, 128), dtype=torch.uint8)] * 2)
    data = model.data_preprocessor(dict(batch, data_samples=None), training=True)
    loss, logged = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    assert loss > 0 and 'loss' in logged
    assert all(p.grad is not None for p in model.parameters())
    with pytest.raises(ValueError, match="no mode 'predict'"):
        model(**data, mode='predict')


@pytest.mark.parametrize('path', sorted((ROOT / '_base_' / 'attacks').glob('*.py')))
def test_attack_presets(path):
    for hook in Config.fromfile(path).custom_hooks:
        assert hook.type == 'mmdiff.AttackHook'
        ATTACKS.build(hook.attack)


def test_configs_are_found_by_name():
    path = Path(config_path(f'detection/{DETECTION[0]}'))
    assert path.name == DETECTION[0] and Config.fromfile(path)
    with pytest.raises(FileNotFoundError, match=f'there are: .*{DETECTION[0]}'):
        config_path('detection/none.py')
