"""Attacks are values: their fields are all there is about them."""

from dataclasses import dataclass, fields, replace

import pytest
from conftest import batch_of

from mmdiff import DAG, PGD
from mmdiff.attacks import APGD, MIM, Budget, RandomNoise, Square
from mmdiff.registry import ATTACKS

ALL = [APGD(), DAG(), MIM(), PGD(), RandomNoise(), Square()]


@pytest.mark.parametrize('attack', ALL, ids=lambda attack: attack.name)
def test_a_run_keeps_nothing_in_the_attack(make_detector, attack):
    if hasattr(attack, 'steps'):
        attack = replace(attack, steps=1)
    before = dict(vars(attack))
    attack(make_detector('fcos', 'resnet'), batch_of([(3, 64, 64)]))
    assert vars(attack) == before


@pytest.mark.parametrize('attack', ALL, ids=lambda attack: attack.name)
def test_the_threat_model_names_every_field(attack):
    threat = attack.threat_model()
    assert {field.name for field in fields(attack)} < set(threat)
    assert threat['attack'] == attack.name


@pytest.mark.parametrize('attack', ALL, ids=lambda attack: attack.name)
def test_registry_and_replace_give_the_same_attack(attack):
    settings = {field.name: getattr(attack, field.name) for field in fields(attack)}
    built = ATTACKS.build({'type': type(attack).__name__, **settings})
    assert built.threat_model() == replace(attack).threat_model()
    assert replace(attack, seed=7).threat_model()['seed'] == 7


def test_names_are_the_class_names_in_snake_case():
    assert [attack.name for attack in ALL] == [
        'apgd',
        'dag',
        'mim',
        'pgd',
        'random_noise',
        'square',
    ]


def test_derived_settings_are_named_too():
    assert APGD(eps=4).threat_model()['step_size'] == 8
    assert Square(steps=50, restarts=3).threat_model()['queries'] == 150
    assert PGD(eps=4, norm='l2').budget == Budget(4, 'l2')


def test_everything_but_the_budget_is_named_by_the_caller():
    with pytest.raises(TypeError):
        PGD(8, 10)


def test_fields_of_a_class_that_is_no_dataclass_are_refused():
    class Careless(PGD):
        decay: float = 0.5

    with pytest.raises(TypeError, match='Careless has fields and is no dataclass'):
        Careless()

    @dataclass(eq=False, kw_only=True)
    class Careful(PGD):
        decay: float = 0.5

    assert Careful(decay=1).threat_model()['decay'] == 1


def test_an_initialiser_of_a_base_that_is_no_attack_is_refused():
    class Mixin:
        def __init__(self, eps):
            self.eps = eps

    with pytest.raises(TypeError, match='Mixed has an __init__ of Mixin, no attack'):

        @dataclass(eq=False)
        class Mixed(Mixin, PGD):
            pass


def test_a_dataclass_with_slots_is_an_attack():
    """``dataclass`` makes such a class anew, with the initialiser it has written."""

    @dataclass(eq=False, kw_only=True, slots=True)
    class Slots(PGD):
        decay: float = 0.5

    assert 'decay' in {field.name for field in fields(Slots)}
