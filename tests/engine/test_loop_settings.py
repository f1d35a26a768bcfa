"""Settings of a config's test loop stay when another takes its place."""

import pytest
from mmengine.runner import TestLoop

from mmdiff.engine.loop_settings import is_robust, plain_settings, robust_settings
from mmdiff.engine.loops import RobustTestLoop

ROBUST = [dict(type='mmdiff.RobustTestLoop'), dict(type=RobustTestLoop)]


@pytest.mark.parametrize('kind', [{}, dict(type='TestLoop'), dict(type=TestLoop)])
def test_a_plain_loop_keeps_its_settings_in_both_tools(kind, capsys):
    test_cfg = dict(kind, fp16=True, _scope_='mmdet')
    assert plain_settings(test_cfg) == dict(type='TestLoop', fp16=True)
    assert robust_settings(test_cfg) == dict(type='mmdiff.RobustTestLoop', fp16=True)
    assert not is_robust(test_cfg) and capsys.readouterr().out == ''


@pytest.mark.parametrize('kind', ROBUST)
def test_of_a_robust_loop_a_plain_one_takes_what_is_its(kind, capsys):
    test_cfg = dict(kind, fp16=True, attacks=[], name='mine')
    assert plain_settings(test_cfg) == dict(type='TestLoop', fp16=True)
    assert robust_settings(test_cfg) == test_cfg and is_robust(test_cfg)
    assert capsys.readouterr().out == ''


def test_what_a_loop_does_not_take_is_refused_by_name():
    for settings, name in ((plain_settings, ''), (robust_settings, 'Robust')):
        with pytest.raises(ValueError, match=f'^{name}TestLoop does not take .*draw;'):
            settings(dict(type='MyLoop', draw=True))


def test_another_loop_is_replaced_and_named(capsys):
    assert plain_settings(dict(type='MyLoop', fp16=True)) == plain_settings(
        dict(fp16=True)
    )
    assert 'A TestLoop replaces the MyLoop of test_cfg' in capsys.readouterr().out
