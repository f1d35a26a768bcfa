"""Numbers with intervals on pages of results are those of the files beside them."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest

from mmdiff.evaluation.report import read_reports
from mmdiff.evaluation.report.differences import differences_table
from mmdiff.evaluation.uncertainty import Bootstrap

DOCS = Path(__file__).parents[1] / 'docs'
NUMBER = r'[+-]?\d\.\d{3,4}'
VALUE = rf'({NUMBER}) \[({NUMBER}), ({NUMBER})\]'
SHARE = r'(\d+) % \[(\d+), (\d+)\]'
ALL = 'toy-voc', 'yolox', 'adversarial-training', 'strength', 'cifar10'
# Page, folders of its files, and what was measured without a file.
PAGES = [
    ('results.md', ['toy-voc'], '0.610 0.139 0.126 0.177 23'),  # at timestep 10
    ('results/yolox.md', ['yolox'], '0.772 0.137 0.006'),  # 16 images, for rounding
    ('results/adversarial-training.md', ['adversarial-training', 'yolox'], '0.012'),
    ('results/cifar10.md', ['cifar10'], ''),
    ('results/shields.md', ['shields', 'cifar10'], ''),
    ('results/strength/strength.md', ['strength'], ''),
    ('guide/attack.md', ALL, '0.610 0.612 0.581 0.142 0.412'),  # --skip-fooled
    ('../README.md', ALL, '0.139'),  # at timestep 10
]


def rows_of(raw):
    """Metric, its interval and that of the share kept of every row of a file."""
    for entry in raw['results']:
        name, value = next(iter(entry['metrics'].items()))
        value /= 100 if name.startswith('accuracy') else 1  # pages have shares
        yield value, entry.get('interval'), entry.get('kept_interval')
    for name in {'P', 'mPC', 'rPC'} & raw.keys():
        yield raw[name], raw['intervals'][name], None


def written(folder):
    """Numbers with their intervals as pages write them, of all files of a folder."""
    for file in folder.glob('*.json'):
        raw = json.loads(file.read_text())
        rows = list(rows_of(raw))
        for (value, ends, kept), digits in itertools.product(rows, (3, 4)):
            if ends:
                yield tuple(f'{x:.{digits}f}' for x in (value, *ends))
            if kept:
                yield tuple(f'{100 * x:.0f}' for x in (value / rows[0][0], *kept))
        if 'rPC' in raw:
            shares = raw['rPC'], *raw['intervals']['rPC']
            yield tuple(f'{100 * x:.0f}' for x in shares)


def differences(folder):
    """Differences of the models of a folder, in both directions."""
    files = sorted(folder.glob('*.json'))
    models = read_reports([f'{file.stem}={file}' for file in files])
    for order in (models, models[::-1]):
        budgets = {budget: str(budget) for budget in order[0].lead}
        table, _ = differences_table(order, budgets)
        for cell in itertools.chain.from_iterable(row[1:] for row in table.rows):
            yield tuple(text.lstrip('+') for text in re.findall(NUMBER, cell))


def on_common_images(folder, others):
    """Differences of files of two folders on the first images, which both have."""
    bootstrap = Bootstrap()
    files = [[*(DOCS / 'results' / f).glob('*.json')] for f in (folder, others)]
    for one, other in itertools.product(*files):
        rows = [
            {
                e['key']: e['image_scores']
                for e in raw['results']
                if e['role'] != 'control'
            }
            for raw in (json.loads(file.read_text()) for file in (one, other))
        ]
        for key in rows[0].keys() & rows[1].keys():
            count = min(len(part[key]) for part in rows)
            apart = np.subtract(*(part[key][:count] for part in rows))
            draws = bootstrap.weights(count) @ apart / count
            ends = bootstrap.paired_interval(draws)
            yield tuple(f'{x:.3f}' for x in (apart.mean(), *ends))
            yield tuple(f'{-x:.3f}' for x in (apart.mean(), *ends[::-1]))


@pytest.mark.parametrize(('page', 'folders', 'unfiled'), PAGES)
def test_numbers_of_a_page_are_those_of_its_files(page, folders, unfiled):
    known = set()
    for name in folders:
        known.update(written(DOCS / 'results' / name))
        if name in ('toy-voc', 'adversarial-training', 'cifar10'):
            known.update(differences(DOCS / 'results' / name))
        if name == 'shields':
            known.update(on_common_images(name, 'cifar10'))
            known.update(on_common_images(name, name))
    text = ' '.join((DOCS / page).read_text().replace('**', '').split())
    found = {*re.findall(VALUE, text), *re.findall(SHARE, text)}
    assert len(found) > 10
    missing = {
        numbers for numbers in found - known if numbers[0] not in unfiled.split()
    }
    assert not missing
