"""Whole or not at all."""

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
