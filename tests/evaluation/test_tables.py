import pytest
from builders import make_entry, make_results

from mmdiff.evaluation.checks import flag
from mmdiff.evaluation.tables import (
    Table,
    align,
    corruptions_table,
    results_table,
    share,
    short_name,
)


def test_a_row_that_is_unreliable_or_counts_others_is_marked():
    results = make_results(protocol='paper')
    bad = results.entries[2]
    bad.flags, bad.cumulative = [flag('blocked', 'pgd met nothing')], True
    table = results_table(results)
    assert table.title == 'prior: robust mAP (protocol: paper), no intervals'
    assert [row[3] for row in table.rows[:3]] == ['0.800', '0.612', '0.400* (!)']
    assert table.rows[0][:3] == ['clean', '', '']
    assert table.rows[2][:3] == ['pgd', 'Linf 8', '10']
    assert table.rows[3][5:] == ['9.0', '0', '600']


def test_text_stays_text_on_a_terminal_and_marks_are_red():
    rich = Table('[red]a', ['[b]x', 'y'], [['[i]z', '0.4 (!)']]).to_rich()
    assert rich.title == '\\[red]a'
    assert [list(column.cells) for column in rich.columns] == [
        ['\\[i]z'],
        ['0.4 [bold red](!)[/]'],
    ]
    assert [column.justify for column in rich.columns] == ['left', 'right']


def test_text_stays_text_in_markdown():
    table = Table('', ['a|b', 'c'], [['<x>', 'y\nz']])
    assert table.to_markdown() == '| a\\|b | c |\n|---|---|\n| &lt;x> | y z |'


def test_rows_come_by_role_then_as_first_met_then_by_budget():
    first = [
        make_entry('clean'),
        make_entry('square', eps=8),
        make_entry('pgd', eps=8),
        make_entry('random_noise', eps=8),
    ]
    second = [
        make_entry('clean'),
        make_entry('pgd', eps=2),
        make_entry('pgd', eps=8),
        make_entry('worst_case', eps=8),
    ]
    rows = align([first, second])
    assert [(row.entry.label, row.entry.eps) for row in rows] == [
        ('clean', None),
        ('worst_case', 8),
        ('square', 8),
        ('pgd', 2),
        ('pgd', 8),
        ('random_noise', 8),
    ]
    assert rows[4].cells == [first[2], second[2]]
    assert rows[3].cells == [None, second[1]]


def test_metrics_have_short_names():
    assert short_name('pascal_voc/mAP') == short_name('coco/bbox_mAP') == 'mAP'
    assert short_name('accuracy/top1') == 'accuracy'
    assert short_name('other/x') == 'other/x'
    assert share(None) == '-' and share(0.256) == '26 %'


@pytest.mark.parametrize(
    'rpc, words', [(0.5, 'rPC 50 % [30, 60]'), (None, 'rPC undefined')]
)
def test_corruptions_have_their_means(rpc, words):
    def row(corruption, severity, value):
        metrics = {'a/mAP': value}
        return {'corruption': corruption, 'severity': severity, 'metrics': metrics}

    report = {
        'results': [row('clean', 0, 1.0), row('fog', 1, 0.25), row('fog', 5, 0.75)],
        'corruptions': ['fog'],
        'severities': [1, 5],
        'P': 1.0,
        'mPC': 0.5,
        'rPC': rpc,
        'intervals': {'P': None, 'mPC': (0.4, 0.75), 'rPC': (0.3, 0.6)},
    }
    table = corruptions_table(report)
    assert table.rows == [['fog', '0.250', '0.750', '0.500']]
    assert table.title == f'P 1.000, mPC 0.500 [0.400, 0.750], {words}'
