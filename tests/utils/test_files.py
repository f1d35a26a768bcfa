"""Whole or not at all."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from mmdiff.utils.files import whole_file, whole_folder, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / 'a' / 'b.json'
    write_json(path, [1])
    with pytest.raises(KeyError), whole_file(path) as partial:
        partial.write_text('half')
        raise KeyError
    assert path.read_text() == '[\n 1\n]\n'
    assert [p.name for p in path.parent.iterdir()] == ['b.json']


def test_the_partial_file_keeps_the_suffix_that_writers_go_by(tmp_path):
    with whole_file(tmp_path / 'a.npz') as partial:
        assert partial.suffix == '.npz' and partial.parent == tmp_path
        partial.write_bytes(b'x')


def test_a_failed_folder_leaves_the_old_one_and_nothing_else(tmp_path):
    folder = tmp_path / 'prior'
    with whole_folder(folder) as partial:
        (partial / 'old').touch()
    with pytest.raises(KeyError), whole_folder(folder, replace=True) as partial:
        (partial / 'new').touch()
        raise KeyError
    assert [p.name for p in tmp_path.rglob('*')] == ['prior', 'old']
    with whole_folder(folder, replace=True) as partial:
        (partial / 'new').touch()
    assert [p.name for p in tmp_path.rglob('*')] == ['prior', 'new']


def test_a_folder_that_is_there_is_not_replaced_unasked(tmp_path):
    (tmp_path / 'mine').write_text('precious')
    with (
        pytest.raises(FileExistsError, match='exists already; remove it'),
        whole_folder(tmp_path),
    ):
        pass
    assert (tmp_path / 'mine').read_text() == 'precious'


def test_json_is_strict_and_names_classes_functions_and_arrays(tmp_path):
    path = tmp_path / 'a.json'
    content = {
        'nan': [math.nan, np.float32('inf'), 0.5],
        'class': Path,
        'function': whole_file,
        'array': np.arange(2),
        'path': Path('a/b'),
    }
    write_json(path, content)

    def refuse(word):
        raise AssertionError(word)

    assert json.loads(path.read_text(), parse_constant=refuse) == {
        'nan': [None, None, 0.5],
        'class': f'{Path.__module__}.Path',
        'function': 'mmdiff.utils.files.whole_file',
        'array': [0, 1],
        'path': 'a/b',
    }
