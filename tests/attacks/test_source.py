"""Images made for one model, given to another."""

import os
from dataclasses import replace

import pytest
import torch
from conftest import batch_of, detector_config, run
from mmengine.config import Config

from mmdiff import PGD
from mmdiff.attacks import DAG, MIM, Square, oracle_of


@pytest.fixture
def source_of(tmp_path):
    """Write a model as config and checkpoint."""

    def write(model, head, backbone, classes=(), **head_args):
        cfg = detector_config(head, backbone)
        cfg.bbox_head.update(head_args)
        config, checkpoint = tmp_path / 'source.py', tmp_path / 'source.pth'
        Config(dict(model=cfg, default_scope='mmdet')).dump(config)
        meta = dict(dataset_meta=dict(classes=classes))
        torch.save(dict(state_dict=model.state_dict(), meta=meta), checkpoint)
        return dict(config=str(config), checkpoint=str(checkpoint))

    return write


def test_from_equal_weights_it_is_the_attack_on_the_victim(make_detector, source_of):
    model = make_detector('retinanet', 'resnet')
    source = source_of(model, 'retinanet', 'resnet')
    batch = batch_of([(3, 64, 64)] * 2, (1, 2), scale=0.5)
    expected = run(PGD(eps=4, steps=2), model, batch)
    text = ','.join([source['config'], source['checkpoint']])
    for given in (source, text, tuple(source.values())):
        attack = PGD(eps=4, steps=2, source=given)
        result = run(attack, model, batch)
        assert all(map(torch.equal, result.inputs, expected.inputs))
        assert result.losses == expected.losses
        threat = attack.threat_model()
        assert (threat['attack'], threat['source']) == ('pgd', text)


def test_any_attack_with_an_objective_has_a_source(make_detector, source_of):
    model = make_detector('retinanet', 'resnet')
    source = source_of(model, 'retinanet', 'resnet')
    victim, batch = make_detector('fcos', 'resnet'), batch_of([(3, 64, 64)])
    loose = dict(active_iou=-1.0, active_score=-1.0, max_proposals=20)
    for attack in (
        MIM(eps=4, steps=1, source=source),
        Square(eps=4, steps=2, source=source),
        DAG(eps=4, steps=1, source=source, **loose),
    ):
        (adv,) = attack(victim, batch)
        (own,) = replace(attack, source=None)(model, batch)
        assert torch.equal(adv, own) and not torch.equal(adv, batch['inputs'][0])


def test_the_victim_is_not_asked(make_detector, source_of):
    source = source_of(make_detector('retinanet', 'resnet'), 'retinanet', 'resnet')
    victim = make_detector('fcos', 'diffusion')

    def asked(*args, **kwargs):
        raise AssertionError('the attack used the victim')

    victim.loss = victim.predict = victim.extract_feat = asked
    victim.data_preprocessor.forward = asked
    attack = PGD(eps=4, steps=2, source=source)
    batch = batch_of([(3, 64, 64)] * 2, (1, 2))
    adv = run(attack, victim, batch, skip=[True, False]).inputs
    clean = batch_of([(3, 64, 64)] * 2, (1, 2))['inputs']
    assert torch.equal(adv[0], clean[0].float())
    assert (adv[1] - clean[1]).abs().max() == 4


def test_a_source_trained_on_is_read_again(make_detector, source_of):
    """The same file names with other weights are another source."""
    batch, victim = batch_of([(3, 64, 64)]), make_detector('retinanet', 'resnet')
    source = source_of(victim, 'retinanet', 'resnet')
    attack = PGD(eps=4, steps=1, source=source)
    (before,) = attack(victim, batch)
    other = make_detector('retinanet', 'resnet')
    for parameter in other.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    source_of(other, 'retinanet', 'resnet')
    os.utime(source['checkpoint'], (0, 0))  # clocks of file systems are coarse
    (after,) = attack(victim, batch)
    assert not torch.equal(before, after)


def test_mistakes_are_one_sentence(make_detector, source_of):
    for wrong in ('only.py', 'a.py,', dict(config='a.py'), ('a', 'b', 'c')):
        with pytest.raises(ValueError, match="must be 'CONFIG,CKPT' or dict"):
            PGD(source=wrong)
    with pytest.raises(FileNotFoundError, match='no file none.py of the source'):
        PGD(source='none.py,none.pth')(make_detector(), batch_of())
    model = make_detector('retinanet', 'resnet')
    other = source_of(model, 'retinanet', 'resnet', num_classes=3)
    with pytest.raises(ValueError, match='3 classes and the victim 5'):
        PGD(source=other)(model, batch_of())


def test_a_source_must_have_the_victims_classes_in_their_order(
    make_detector, source_of
):
    model, oracle_classes = make_detector('retinanet', 'resnet'), tuple('abcde')
    for classes, fits in (('abcde', True), ('ABCDE', True), ('bacde', False)):
        source = source_of(model, 'retinanet', 'resnet', classes=tuple(classes))
        attack, oracle = PGD(eps=4, steps=1, source=source), oracle_of(model)
        os.utime(source['checkpoint'], (0, ord(classes[0])))
        attack.run(oracle, batch_of())  # nobody knows the victim's: numbers decide
        oracle.classes = oracle_classes
        if fits:
            attack.run(oracle, batch_of())
            continue
        with pytest.raises(ValueError, match='classes b, a, .* victim a, b, .* order'):
            attack.run(oracle, batch_of())
