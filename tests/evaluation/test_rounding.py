"""What rounding to whole pixel values does to a row, in JSON, tables and pages."""

from builders import make_entry, make_results

from mmdiff.attacks import Budget
from mmdiff.evaluation.entry import Entry
from mmdiff.evaluation.report import build_page, read_reports, render
from mmdiff.evaluation.rounding import differs, rounding_note, undone
from mmdiff.evaluation.tables import results_table


def rounded_entry(rounded, attack='pgd', **fields):
    metrics = {'pascal_voc/AP50': 0.1, 'pascal_voc/mAP': rounded}
    return make_entry(attack, metrics_after_rounding=metrics, **fields)


def test_json_has_the_metrics_after_rounding_and_files_without_are_read():
    entry = rounded_entry(0.3)
    raw = entry.to_json()
    assert raw['metrics_after_rounding']['pascal_voc/mAP'] == 0.3
    assert Entry.from_json(raw) == entry
    del raw['metrics_after_rounding']
    old = Entry.from_json(raw)
    assert old.after_rounding is None and not differs(old)
    assert 'metrics_after_rounding' not in old.to_json()
    assert rounding_note(old, make_entry('clean', 0.8)) == ''


def test_only_what_is_seen_is_told():
    clean = make_entry('clean', 0.8)
    assert rounding_note(rounded_entry(0.204), clean) == ''  # of 0.200
    note = rounding_note(rounded_entry(0.21), clean)
    assert '0.200 is that of the values' in note and 'it is 0.210' in note
    assert 'undoes' not in note
    lower = rounded_entry(0.1)
    assert 'it is 0.100' in rounding_note(lower, clean) and undone(lower, clean) < 0
    worst = rounded_entry(0.3, 'worst_case')
    assert 'with the choice of attacks held' in rounding_note(worst, clean)


def test_changes_kept_from_a_smaller_budget_say_nothing_of_a_larger_one():
    """With skip_fooled a change of 0.5 stands in the row of 8: rounding undoes it."""
    worst = rounded_entry(0.3, 'worst_case')
    worst.upper_bound = True
    clean, smaller = make_entry('clean', 0.35), make_entry(budget=Budget(0.5))
    note = rounding_note(worst, clean, [clean, smaller, worst])
    assert 'says nothing of the budget' in note and 'undoes' not in note
    # With one budget alone, what was skipped is of that budget.
    assert 'undoes' in rounding_note(worst, clean, [clean, make_entry(), worst])


def test_rounding_that_undoes_an_attack_is_said_in_every_place(tmp_path):
    results = make_results()
    results.entries[2] = rounded_entry(0.79, value=0.4, images=120)
    clean = results.clean
    assert undone(results.entries[2], clean) > 0.97
    cells = [row[3] for row in results_table(results).rows]
    assert cells[:4] == ['0.800', '0.612', '0.400 (rounded: 0.790)', '0.500']
    path = tmp_path / 'robustness.json'
    results.write(path)
    page = build_page(read_reports([path]))
    (note,) = [n for n in page.notes if 'undoes' in n]
    assert note.startswith('prior, pgd at eps=8:')
    assert 'rounding undoes 98 % of the attack' in note
    html = render(page)
    assert '(rounded: 0.790)' in html and 'rounding undoes 98 % of the attack' in html
