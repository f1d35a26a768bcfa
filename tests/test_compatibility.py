"""The table of detectors says what happens: a part of it is made anew."""

import runpy
from pathlib import Path

import mmdet
import pytest

ROOT = Path(__file__).parents[1]
TABLE = ROOT / 'docs' / 'compatibility.md'


@pytest.fixture(scope='module')
def tool():
    return runpy.run_path(str(ROOT / 'tools' / 'compatibility.py'))


def read(markdown):
    """Cells of every detector, numbers replaced by their sentences."""
    sentences, rows = {}, {}
    lines = markdown.splitlines()
    for line in lines:
        number, _, text = line.partition('. ')
        if number.isdigit():
            sentences[number] = text
    for line in lines:
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        if line.startswith('| ') and len(cells) > 2 and cells[0] != 'detector':
            rows[cells[0]] = [sentences.get(cell, cell) for cell in cells[1:]]
    return rows


def test_what_is_in_the_table_is_known_and_nothing_fails_unrefused(tool):
    rows = read(TABLE.read_text())
    assert set(rows) == set(tool['FAMILIES'])
    assert all(len(cells) == len(tool['ATTACKS']) for cells in rows.values())
    assert '**' not in TABLE.read_text()


def test_every_folder_of_mmdets_configs_has_a_row_or_a_reason(tool):
    package = Path(mmdet.__file__).parent
    folders = {path.name for path in (package / '.mim' / 'configs').iterdir()}
    rows = {config.split('/')[0] for config in tool['FAMILIES'].values()}
    reasons = {name for names in tool['WITHOUT_ROW'].values() for name in names.split()}
    assert folders - {'_base_'} == rows | reasons
    assert not rows & reasons


@pytest.mark.slow
@pytest.mark.parametrize('family', ['FCOS', 'TOOD', 'YOLOX', 'SSD'])
def test_a_row_made_anew_is_that_of_the_table(tool, family):
    table = tool['Table']()
    tool['try_family'](family, 128, table)
    anew = read(table.to_markdown())[family]
    assert anew == read(TABLE.read_text())[family]
