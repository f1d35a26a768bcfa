"""Where results go."""

import pytest
from mmengine.config import Config

from mmdiff.utils.configs import work_dir_of


@pytest.mark.parametrize(
    'config, flag, expected',
    [
        ({'work_dir': 'of_config'}, 'of_flag', 'of_flag'),
        ({'work_dir': 'of_config'}, None, 'of_config'),
        ({}, None, './work_dirs/tiny'),
    ],
)
def test_the_work_dir_is_the_flags_then_the_configs_then_of_its_name(
    config, flag, expected
):
    assert work_dir_of(Config(config), 'configs/tiny.py', flag) == expected
