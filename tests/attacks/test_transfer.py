"""Images made for one model, given to another."""

import pytest
import torch
from conftest import batch_of, detector_config
from mmengine.config import Config

from mmdiff import PGD
from mmdiff.attacks import AttackStats, Transfer


@pytest.fixture
def source_of(tmp_path):
    """Write a model as config and checkpoint."""

    def write(model, head, backbone, **head_args):
        cfg = detector_config(head, backbone)
        cfg.bbox_head.update(head_args)
        config, checkpoint = tmp_path / 'source.py', tmp_path / 'source.pth'
        Config(dict(model=cfg, default_scope='mmdet')).dump(config)
        torch.save(dict(state_dict=model.state_dict()), checkpoint)
        return dict(config=str(config), checkpoint=str(checkpoint))

    return write


def test_from_equal_weights_it_is_the_inner_attack(make_detector, source_of):
    model = make_detector('retinanet', 'resnet')
    source = source_of(model, 'retinanet', 'resnet')
    batch = batch_of([(3, 64, 64)] * 2, (1, 2), scale=0.5)
    inner = PGD(eps=4, steps=2)
    expected = inner(model, batch)
    for given in (source, ','.join([source['config'], source['checkpoint']])):
        attack = Transfer(dict(type='PGD', eps=4, steps=2), given)
        found = attack(model, batch)
        assert all(torch.equal(a, b) for a, b in zip(found, expected))
        assert attack.image_losses == inner.image_losses
        threat = attack.threat_model()
        assert (threat['attack'], threat['inner']) == ('transfer', 'pgd')
        assert threat['eps'] == 4 and threat['source'] == ','.join(source.values())


def test_the_victim_is_not_asked(make_detector, source_of):
    source = source_of(make_detector('retinanet', 'resnet'), 'retinanet', 'resnet')
    victim = make_detector('fcos', 'diffusion')

    def asked(*args, **kwargs):
        raise AssertionError('the attack used the victim')

    victim.loss = victim.predict = victim.extract_feat = asked
    victim.data_preprocessor.forward = asked
    attack = Transfer(PGD(eps=4, steps=2), source)
    adv = attack(victim, batch_of([(3, 64, 64)] * 2, (1, 2)), skip=[True, False])
    clean = batch_of([(3, 64, 64)] * 2, (1, 2))['inputs']
    assert torch.equal(adv[0], clean[0].float())
    assert (adv[1] - clean[1]).abs().max() == 4


def test_hooks_reach_the_inner_attack():
    attack = Transfer(PGD(eps=4), 'a.py,b.pth')
    attack.stats, attack.gt_scale = AttackStats(images=3), 'input'
    assert attack.attack.stats.images == attack.stats.images == 3
    assert attack.attack.gt_scale == attack.gt_scale == 'input'


def test_mistakes_are_one_sentence(make_detector, source_of):
    with pytest.raises(ValueError, match="must be 'CONFIG,CKPT' or dict"):
        Transfer(PGD(), 'only.py')
    with pytest.raises(FileNotFoundError):
        Transfer(PGD(), 'none.py,none.pth')(make_detector(), batch_of())
    model = make_detector('retinanet', 'resnet')
    other = source_of(model, 'retinanet', 'resnet', num_classes=3)
    with pytest.raises(ValueError, match='3 classes and the victim 5'):
        Transfer(PGD(), other)(model, batch_of())
