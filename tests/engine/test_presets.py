from argparse import ArgumentParser

import pytest
from mmengine.config import Config, DictAction

from mmdiff.attacks import APGD, DAG, MIM, PGD, Square, TorchAttack
from mmdiff.engine.presets import (
    ATTACK_NAMES,
    attack_configs,
    protocol_of,
    task_of_config,
)
from mmdiff.registry import ATTACKS
from mmdiff.utils.configs import config_path


def build(*args, **options):
    return [ATTACKS.build(config) for config in attack_configs(*args, **options)]


def test_every_attack_is_built_at_every_budget():
    attacks = build('pgd,dag', '2,4', 7)
    assert [(type(a), a.eps, a.steps) for a in attacks] == [
        (PGD, 2.0, 7),
        (PGD, 4.0, 7),
        (DAG, 2.0, 7),
        (DAG, 4.0, 7),
    ]
    assert build('dag')[0].eps is None  # as published


@pytest.mark.parametrize(
    'names, eps, words',
    [
        ('pgd,cw', None, "no attack 'cw'; choose from pgd, dag"),
        ('pgd', '2;4', 'must be numbers in pixel units'),
        ('pgd', '-2', 'eps=-2.0 is negative'),
    ],
)
def test_a_mistake_is_one_sentence(names, eps, words):
    with pytest.raises(ValueError, match=words):
        attack_configs(names, eps)


def test_presets_take_budgets_and_steps():
    standard = build('standard', '2,4', 3)
    assert len(standard) == 10 and {a.eps for a in standard} == {2, 4}
    assert [type(a) for a in standard[::2]] == [APGD, APGD, APGD, PGD, APGD]
    assert {a.steps for a in standard} == {3}
    quick, noise = attack_configs('quick,random_noise', steps=2)
    assert quick == {'type': 'mmdiff.PGD', 'eps': 8, 'steps': 2}
    assert noise == {'type': 'mmdiff.RandomNoise'}
    assert attack_configs('noise') == attack_configs('random_noise')


def test_settings_that_only_some_attacks_have_reach_those():
    standard = build('standard', eot=4, restarts=2)
    assert [a.eot for a in standard] == [4] * 5
    with pytest.raises(ValueError, match="'standard' takes the argument 'etot'"):
        attack_configs('standard', etot=4)
    with pytest.raises(ValueError, match="'noise' takes the argument 'objective'"):
        attack_configs('noise', objective='cls')


def test_attacks_as_published_are_of_the_paper_protocol():
    (ares,) = build('paper_ares')
    assert (ares.eps, ares.steps, ares.step_size) == (2, 20, 1)
    assert not ares.keep_best and protocol_of('paper_ares,paper_dag') == 'paper'
    assert build('paper_dag')[0].eps is None
    assert protocol_of('standard,pgd') == 'adaptive'
    with pytest.raises(ValueError, match="'paper_dag,pgd' mixes .* by itself"):
        protocol_of('paper_dag,pgd')


def test_an_objective_with_settings_is_given_piece_by_piece():
    options = {'objective.type': 'Lagrange', 'objective.multiplier': 10}
    (config,) = attack_configs('pgd', task='classification', **options)
    assert config['objective'] == {'type': 'Lagrange', 'multiplier': 10}
    (named,) = attack_configs('apgd', task='detection', objective='lagrange')
    assert named['objective'] == 'lagrange'
    options['objective.multiplier'] = 0
    with pytest.raises(ValueError, match='multiplier=0 must be a number above 0'):
        attack_configs('pgd', **options)


def test_the_source_is_transfers_only_and_all_else_is_everyones():
    options = {'source': ['a.py', 'b.pth'], 'objective': 'cls'}  # as DictAction has it
    pgd, transfer = build('pgd,transfer', '4', 3, **options)
    assert (type(pgd), pgd.objective, pgd.source) == (PGD, 'cls', None)
    assert transfer.threat_model()['source'] == 'a.py,b.pth'
    assert (type(transfer), transfer.eps, transfer.steps) == (MIM, 4, 3)
    assert transfer.objective == 'cls'
    with pytest.raises(ValueError, match="needs another model: source='CONFIG,CKPT'"):
        attack_configs('transfer')
    with pytest.raises(ValueError, match='belongs to the attack transfer; add it'):
        attack_configs('pgd', source='a.py,b.pth')


@pytest.mark.parametrize(
    'options, mask',
    [
        (['mask=boxes'], 'boxes'),
        (['mask.type=boxes', 'mask.grow=-2'], 'boxes-2'),
        (['mask=0,0.5,1,1', 'restarts=2'], 'rectangle 0,0.5,1,1'),
        (
            ['mask.type=rectangle', 'mask.box=0,0,32,32', 'mask.unit=pixel'],
            'rectangle 0,0,32,32 px',
        ),
    ],
)
def test_a_mask_from_the_command_line_is_every_attacks(options, mask):
    parser = ArgumentParser()
    parser.add_argument('--options', nargs='+', action=DictAction)
    given = parser.parse_args(['--options', *options]).options
    attacks = build('standard,noise', **given)
    assert {str(attack.mask) for attack in attacks} == {mask} and len(attacks) == 6


@pytest.mark.parametrize(
    'options, words',
    [
        ({'mask': 'box'}, "mask='box' is unknown"),
        ({'mask.grow': 2}, 'has no type of a mask; choose from'),
        ({'masks.type': 'boxes'}, "'pgd' takes the argument 'masks'"),
    ],
)
def test_a_mistaken_mask_on_the_command_line_is_one_sentence(options, words):
    with pytest.raises(ValueError, match=words):
        attack_configs('pgd', **options)


@pytest.mark.parametrize('name', sorted(set(ATTACK_NAMES) - {'transfer', 'universal'}))
def test_every_name_is_an_attack(name):
    (attack,) = build(name, '4')
    assert attack.eps == 4


def test_universal_needs_its_file():
    with pytest.raises(ValueError, match='universal needs a perturbation; give file='):
        attack_configs('pgd,universal')
    with pytest.raises(FileNotFoundError, match='There is no perturbation a.safe'):
        attack_configs('universal', file='a.safetensors')


def test_standard_is_autoattack_on_classifiers():
    ours = build('standard', '2,8', task='classification')
    assert [type(a) for a in ours[::2]] == [APGD, APGD, TorchAttack, Square]
    assert {a.eps for a in ours} == {2, 8}
    assert [a.steps for a in ours[::2]] == [100, 100, 100, 5000]
    assert [a.objective for a in (ours[0], ours[2], ours[6])] == [
        'ce',
        'dlr_targeted',
        'cw',
    ]
    assert ours[2].restarts == 9 and ours[4].options == {'multi_targeted': True}
    of_detectors = attack_configs('standard', '2', task='detection')
    assert of_detectors == attack_configs('standard', '2')
    assert of_detectors[0]['objective'] == 'detections'


def test_the_published_protocol_of_robust_pretrainers():
    *pgd, autoattack = build('paper_robust_pretrainers', task='classification')
    assert [a.steps for a in pgd] == [10, 20]
    assert {(a.eps, a.step_size, a.eot, a.keep_best) for a in pgd} == {(8, 2, 1, False)}
    assert (autoattack.name, autoattack.eps) == ('AutoAttack', 8)
    assert protocol_of('paper_robust_pretrainers') == 'paper'


def test_the_task_is_that_of_the_config():
    leaf = 'cifar10-patch2_linear-head_1xb128-20e_cifar10-folders.py'
    pytest.importorskip('mmpretrain')
    cfg = Config.fromfile(config_path(f'classification/{leaf}'))
    assert task_of_config(cfg) == 'classification'
    leaf = 'retinanet_toy-unet_dfpn_1xb4-2e_toy-voc.py'
    cfg = Config.fromfile(config_path(f'detection/{leaf}'))
    assert task_of_config(cfg) == 'detection'
    cfg.model.type = 'Nobody'
    assert task_of_config(cfg) is None


@pytest.mark.parametrize(
    'preset, task, words',
    [
        ('paper_dag', 'classification', 'quick, standard, paper_robust_pretrainers'),
        ('quick,paper_ares', 'classification', 'quick, standard, paper_robust'),
        ('paper_robust_pretrainers', 'detection', 'quick, standard, paper_ares, '),
    ],
)
def test_a_preset_of_the_other_task_is_one_sentence(preset, task, words):
    name = preset.split(',')[-1]
    match = f'preset {name} is for .* and the model is for {task}; choose .*{words}'
    with pytest.raises(ValueError, match=match):
        attack_configs(preset, task=task)
    assert attack_configs(name)  # of a model whose task is not known


def test_attacks_of_torchattacks_have_names_too():
    fab, cw = build('torch_fab,torch_CW')
    assert (fab.name, fab.eps, cw.name, cw.eps) == ('FAB', 8, 'CW', None)
    pytest.importorskip('torchattacks', reason='pip install --no-deps torchattacks')
    fab, pgd = build('torch_fab,torch_pgd', '4', 3, alpha=2, multi_targeted=True)
    assert (fab.options, pgd.options) == ({'multi_targeted': True}, {'alpha': 2})
    assert (fab.steps, pgd.steps, pgd.eps) == (3, 3, 4)


@pytest.mark.parametrize(
    'names, options, words',
    [
        ('torch_apdg', {}, "no attack 'apdg' that is run here; choose one of FGSM"),
        ('torch_cw', {'eps': '8'}, 'CW looks for the smallest change'),
        ('pgd', {'objective': 'margin'}, r"'margin' is none of classification.*'dlr'"),
        ('pgd', {'objective': 'dl'}, r"'dl' is none of classification.*'dlr'"),
    ],
)
def test_a_mistake_for_a_classifier_is_one_sentence(names, options, words):
    with pytest.raises(ValueError, match=words):
        attack_configs(names, task='classification', **options)
