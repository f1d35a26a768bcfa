import base64
import csv
import io
import re
import runpy
import shutil
import socketserver
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from builders import make_entry, make_results
from PIL import Image

from mmdiff.attacks import Budget
from mmdiff.evaluation.checks import CODES, flag
from mmdiff.evaluation.entry import Cost
from mmdiff.evaluation.report import (
    build_page,
    read_reports,
    render,
    render_markdown,
    to_csv,
)
from mmdiff.evaluation.results import ModelCost, RunSanity

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / 'tools'
BROWSER = next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))),
    None,
)


def other_results(name='b'):
    """Of a model with fewer attacks and images, one of them flagged."""
    entries = [make_entry('clean', 0.5)]
    for eps, value in ((2, 0.3), (8, 0.55)):
        entry = make_entry('pgd', value, eps)
        entry.settings = {'steps': 20}
        entry.cost = Cost(seconds=3.0, grad_evals=480)
        entries.append(entry)
    text = 'pgd at eps=8 raised the metric above the clean one'
    entries[-1].flags = [flag('raised_metric', text)]
    for entry in entries:
        entry.num_images = 24
    return make_results(name=name, entries=entries, cost=ModelCost())


@pytest.fixture
def write(tmp_path):
    def write(results, name='robustness.json'):
        results.write(tmp_path / name)
        return tmp_path / name

    return write


class Page(HTMLParser):
    """Text by section, and the cells of each section's tables by row."""

    def __init__(self, html):
        super().__init__()
        self.text, self.rows, self.tags = {}, {}, []
        self.section, self.cell = None, None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == 'section':
            self.section = dict(attrs)['id']
        elif tag == 'tr':
            self.rows.setdefault(self.section, []).append([])
        elif tag in ('td', 'th'):
            self.rows[self.section][-1].append('')
            self.cell = self.rows[self.section][-1]
        elif tag == 'br' and self.cell:
            self.cell[-1] += ' '

    def handle_endtag(self, tag):
        if tag in ('td', 'th'):
            self.cell = None

    def handle_data(self, data):
        self.text[self.section] = self.text.get(self.section, '') + data
        if self.cell is not None:
            self.cell[-1] += data


def page_of(*paths):
    page = build_page(read_reports(paths))
    return Page(render(page)), page


def test_every_number_of_the_file_is_in_the_page(write):
    results = make_results()
    page, _ = page_of(write(results))
    rows = {(r[0], r[1]): r[2:] for r in page.rows['attacks'][2:]}
    assert len(rows) == len(results.entries)
    for entry in results.entries:
        steps, restarts, eot, *cells = rows[entry.label, entry.where]
        is_attack = entry.role == 'attack'
        assert (steps, restarts, eot) == (('10', '1', '1') if is_attack else ('',) * 3)
        kept = f'{100 * entry.value / 0.8:.0f} %'
        square = entry.label == 'square'
        gradients, seconds = ('0 + 600', '9') if square else ('100', '12')
        assert cells == [f'{entry.value:.3f}', kept, gradients, seconds]
    # The worst case leads, not the PGD beside it; the control and clean never do.
    (lead,) = page.rows['lead'][1:]
    assert lead[1:] == [
        '0.800 120 images',
        '0.612 77 % · pgd',
        '0.350 44 % · worst_case',
        '0.100 12 % · dag',
        '1.12 M',
        '109 s',
    ]
    assert page.rows['classes'][2:] == [
        ['cat', '0.900', '0.540', '-0.360'],
        ['dog', '0.700', '0.160', '-0.540'],
    ]
    heat = [a['style'] for _, a in page.tags if a.get('class') == 'heat']
    assert heat == ['--drop: 40%', '--drop: 77%']
    assert 'flags' not in page.text
    # The file is of a time without intervals, and the page says so.
    assert page.text['notes'].strip() == (
        'prior: no interval: the file keeps nothing of single images.'
    )
    for value in ('a.pth', 'd/', 'val.txt', 'torch 2.8.0', 'configs/a.py'):
        assert value in page.text['origin']


def test_committed_results_make_a_page(write):
    """Those of the quick start, which are of schema 2."""
    folder = ROOT / 'docs' / 'results' / 'toy-voc'
    page, arranged = page_of(*sorted(folder.glob('*.json')))
    for model in arranged.models:
        (row,) = (r for r in page.rows['lead'] if r[0] == model.name)
        strongest = min(entry.value for entry in model.entries)
        assert row[4].startswith(f'{strongest:.3f} ')
    assert {m.name for m in arranged.models} == {'frozen prior', 'from scratch'}
    assert len(page.rows['classes']) == 8
    assert page.text['notes'].count('only 32 images') == 2


def test_curve_runs_through_the_numbers(write):
    _, page = page_of(write(make_results()))
    (path,) = re.findall(r'd="(M[^"]+)"[^>]*stroke-width: 2.5', page.curve)
    xy = np.array(re.findall(r'[ML] ([\d.]+) ([\d.]+)', path), float)
    for pixels, values in ((xy[:, 0], [0, 2, 8]), (xy[:, 1], [0.8, 0.6123, 0.35])):
        line = np.polyfit(values, pixels, 1)
        assert np.abs(np.polyval(line, values) - pixels).max() < 1e-3
        assert abs(line[0]) > 1  # pixels do move with the values
    assert page.curve.count('stroke-dasharray') == 1  # the control
    assert page.cost.count('trainable parameters, millions') == 1
    # Clean, attacked, and attacked again filled, at one x, for each of three costs.
    marks = re.findall(r'<use [^>]* x="([\d.]+)" y="([\d.]+)"[^>]*#3182bd', page.cost)
    xy = np.array(marks, float).reshape(3, 3, 2)
    assert (xy[:, :, 0] == xy[:, :1, 0]).all() and (xy[:, 1] == xy[:, 2]).all()
    zero = max(float(y) for y in re.findall(r'<use [^>]* y="([\d.]+)"', page.cost))
    shares = (zero - xy[:, 1, 1]) / (zero - xy[:, 0, 1])
    assert np.abs(shares - 0.35 / 0.8).max() < 1e-4


def test_a_model_without_attacks_has_a_page_without_figures(write):
    page, arranged = page_of(write(make_results(entries=[make_entry('clean', 0.5)])))
    assert arranged.curve == arranged.cost == '' and arranged.strongest is None
    assert 'Attacks: none.' in page.text['threat-model']


def test_models_stand_side_by_side(write):
    mine = f'mine={write(other_results(), "mine.json")}'
    paths = write(make_results(), 'a.json'), write(make_results(), 'c.json')
    page, arranged = page_of(mine, paths[0], f'third={paths[1]}')
    assert [m.name for m in arranged.models] == ['mine', 'prior', 'third']
    mine, other, third = page.rows['lead'][1:]
    assert mine[0] == 'mine' and mine[-2:] == ['', '']
    assert mine[4] == 'not run' and other[1:] == third[1:]
    assert mine[3] == '0.550 unreliable 110 % · pgd'
    row = next(r for r in page.rows['attacks'] if r[:3] == ['pgd', 'Linf 8', '20'])
    assert row[5:8] == ['0.550 unreliable', '110 %', '480'] and row[9] == '-'
    # Said in plain words, at the top, and nowhere about the other models.
    assert 'mine: pgd at eps=8 raised the metric above' in page.text['flags']
    assert 'prior' not in page.text['flags']
    notes = page.text['notes']
    assert 'mine: only 24 images' in notes and 'prior: only' not in notes
    assert 'differ in images: 24, 120, 120' in notes and 'same attacks' in notes
    assert 'Not every file tells this cost: training, seconds' in notes
    assert 'attacks met by all' not in arranged.cost


def test_one_attack_with_two_more_settings_has_two_rows(write):
    results = make_results()
    twin = make_entry('pgd', 0.41, 8, images=120)
    twin.settings['seed'] = 1
    results.entries.append(twin)
    page, _ = page_of(write(results))
    values = [r[5] for r in page.rows['attacks'][2:] if r[:2] == ['pgd', 'Linf 8']]
    assert values == ['0.400', '0.410']


def test_what_does_not_compare_is_said(write):
    results = make_results(complete=False)
    results.entries[2] = make_entry('pgd', 0.3, 8, images=40)
    page, _ = page_of(write(results))
    assert 'pgd, Linf 8: on 40 images, the clean mAP on 120' in page.text['notes']
    assert 'alone it leaves less than the worst_case does' in page.text['notes']
    assert 'the run was not finished' in page.text['notes']
    entries = [make_entry('clean', 0.0), make_entry('pgd', 0.0, 8)]
    page, _ = page_of(write(make_results(entries=entries)))
    assert page.rows['attacks'][3][5:7] == ['0.000', '-']  # a share of nothing


def test_rows_that_count_others_and_worst_restarts_are_marked(write):
    results = make_results(sanity=RunSanity(larger_canvas=7))
    pgd, square = results.entries[2:4]
    pgd.cumulative, pgd.metrics_worst_restart = True, {'pascal_voc/mAP': 0.377}
    square.settings['quantize'] = True
    page, arranged = page_of(write(results))
    rows = {(r[0], r[1]): r[5] for r in page.rows['attacks'][2:]}
    assert rows['pgd', 'Linf 8'].split() == ['0.400*', 'worst', 'restart', '0.377']
    assert rows['pgd', 'Linf 2'] == '0.612' and rows['square', 'Linf 8, uint8']
    assert 'Rows marked * were run on what is left' in page.text['notes']
    assert '7 images were predicted beside larger ones' in page.text['notes']
    assert '| pgd | Linf 8 | 10 | 0.400* |' in render_markdown(arranged)
    table = list(csv.DictReader(io.StringIO(to_csv(arranged.models))))
    assert [row['cumulative'] for row in table[:3]] == ['False', 'False', 'True']
    assert table[2]['worst_restart'] == '0.377' and table[3]['quantize'] == 'True'


def test_the_page_explains_every_flag_by_its_code(write):
    """Whatever its sentence says."""
    results = make_results()
    results.entries[1].flags = [flag(code, f'of {code}') for code in CODES]
    page, _ = page_of(write(results))
    for code, meaning in CODES.items():
        assert f'prior: of {code}. {meaning}' in page.text['flags']


def test_the_page_of_a_classifier_speaks_of_accuracy(write):
    results = make_results(task='classification')
    for entry in results.entries:
        entry.metrics = {'accuracy/top1': 100 * entry.value}
    page, arranged = page_of(write(results))
    assert page.rows['lead'][1][2] == '0.612 77 % · pgd'
    html = render(arranged)
    assert 'mAP' not in html and 'accuracy over the budget' in html


def test_markdown_and_csv_agree_with_the_page(write):
    paths = write(make_results()), write(other_results(), 'b.json')
    page, arranged = page_of(*paths)
    lines = render_markdown(arranged).splitlines()
    table = [[c.strip() for c in ln.split('|')[1:-1]] for ln in lines if ln[:1] == '|']
    assert table[0][3:] == ['prior', 'kept', 'b', 'kept']
    expected = []
    for row in page.rows['attacks'][2:]:
        cells = [c.replace('unreliable', '(!)') for c in row]
        pairs = [(cells[k], cells[k + 1] or '-') for k in (5, 9)]
        expected.append([*cells[:3], *pairs[0], *pairs[1]])
    assert table[2:] == expected
    assert ['pgd', 'Linf 8', '20', '-', '-', '0.550 (!)', '110 %'] in expected
    assert any(ln.startswith('**(!) b:** pgd at eps=8 raised') for ln in lines)
    rows = list(csv.DictReader(io.StringIO(to_csv(arranged.models))))
    entries = [
        e for results in (make_results(), other_results()) for e in results.entries
    ]
    assert [float(r['value']) for r in rows] == [entry.value for entry in entries]
    assert float(rows[1]['kept']) == 0.6123 / 0.8
    flagged = [row['flags'] for row in rows if row['reasons']]
    assert flagged == ['raised_metric']


def test_names_from_files_stay_text(write):
    bad = '<script>alert(1)</script>|$x_{$"\'[red]'
    results = make_results(name=bad, checkpoint=bad, protocol=bad, device=bad)
    results.versions, results.unexplained = {bad: bad}, [bad]
    for k in (1, 2):
        results.entries[k].label = bad
    results.entries[2].budget = Budget(8, 'l2')
    results.entries[0].per_class = results.entries[4].per_class = {bad: 0.5}
    picture = {'image_id': bad, 'attack': bad, 'eps': bad, 'file': '"><script>'}
    results.gallery = [picture]
    page, arranged = page_of(write(results))
    assert not {'script', 'b"'} & {tag for tag, _ in page.tags}
    assert page.rows['lead'][1][0] == bad and bad in page.text['flags']
    assert '<script' not in render_markdown(arranged)
    header, rule = render_markdown(arranged).splitlines()[:2]
    assert header.replace('\\|', '').count('|') == rule.count('|')


def png(color):
    out = io.BytesIO()
    Image.new('RGB', (8, 8), color).save(out, 'PNG')
    return out.getvalue()


def picture_of(file, image_id='1'):
    return {'image_id': image_id, 'attack': 'pgd', 'eps': 8, 'file': file}


def test_gallery_holds_the_pictures_and_names_missing_ones(write, tmp_path):
    (tmp_path / 'a.png').write_bytes(png('red'))
    (tmp_path / 'b.png').write_bytes(b'no picture')
    (tmp_path.parent / 'outside.png').write_bytes(png('red'))
    files = 'a.png', 'gone.png', 'b.png', '../outside.png'
    path = write(make_results(gallery=[picture_of(file) for file in files]))
    page, _ = page_of(path)
    images = [a['src'].split(',', 1)[1] for tag, a in page.tags if tag == 'img']
    assert [base64.b64decode(image) for image in images] == [png('red')]
    for file in files[1:]:
        assert f'There is no PNG {file!r} beside the report.' in page.text['gallery']


def test_names_must_differ(write):
    a, b = write(make_results(), 'a.json'), write(make_results(), 'b.json')
    with pytest.raises(ValueError, match="Two reports are called 'prior'.*NAME="):
        read_reports([a, b])
    assert [m.name for m in read_reports([a, f'new={b}'])] == ['prior', 'new']
    with pytest.raises(FileNotFoundError, match='no file .*c.json'):
        read_reports([a.with_name('c.json')])
    with pytest.raises(FileNotFoundError, match='no file .*c.json'):
        read_reports([f'new={a.with_name("c.json")}'])


def run_tool(monkeypatch, name, *args):
    monkeypatch.setattr(sys, 'argv', [name, *map(str, args)])
    runpy.run_path(str(TOOLS / name), run_name='__main__')


def test_tools_write_the_same_bytes_every_time(write, tmp_path, monkeypatch, capsys):
    path = write(make_results(gallery=[picture_of('gone.png')]))
    outs = [tmp_path / 'new' / n for n in ('a.html', 'a.md', 'a.csv')]
    flags = '--out', outs[0], '--markdown', outs[1], '--csv', outs[2]
    written = []
    for _ in range(2):
        run_tool(monkeypatch, 'robustness_report.py', path, *flags)
        written.append([out.read_bytes() for out in outs])
        assert 'gone.png' in capsys.readouterr().err
    assert written[0] == written[1]


def test_a_picture_shows_the_budgets_of_one_norm(write, tmp_path, monkeypatch):
    slow = make_results(name='slow', cost=ModelCost(1e6, 5000.0))
    paths = write(make_results()), write(slow, 'slow.json')
    flags = '--out', tmp_path / 'a.html', '--picture'
    for name in ('new/a.png', 'a.svg'):
        run_tool(monkeypatch, 'robustness_report.py', *paths, *flags, tmp_path / name)
    assert Image.open(tmp_path / 'new' / 'a.png').width > 900  # two panels
    shown = (tmp_path / 'a.svg').read_text()
    for words in ('eps (Linf, pixel values 0 to 255)', 'training, seconds', 'slow'):
        assert f'<!-- {words} -->' in shown
    with pytest.raises(SystemExit, match='a.gif is of no format .*png'):
        run_tool(
            monkeypatch, 'robustness_report.py', *paths, *flags, tmp_path / 'a.gif'
        )
    clean = make_results(entries=[make_entry('clean', 0.8)])
    with pytest.raises(SystemExit, match='No attack of these files has a budget'):
        run_tool(
            monkeypatch,
            'robustness_report.py',
            write(clean, 'clean.json'),
            *flags,
            tmp_path / 'b.png',
        )


def test_compare_lists_models_and_says_what_is_unreliable(write, monkeypatch, capsys):
    path, other = write(make_results()), write(other_results('[red]b'), 'b.json')
    monkeypatch.setenv('COLUMNS', '170')
    run_tool(monkeypatch, 'compare_robustness.py', path, other)
    shown = ' '.join(capsys.readouterr().out.split())
    for words in (
        '0.350 44 % worst_case',
        '0.550 110 % pgd (!)',
        '(!) unreliable ([red]b): pgd at eps=8 raised',
        'only 24 images',
    ):
        assert words in shown


@pytest.mark.parametrize('name', ['robustness_report.py', 'compare_robustness.py'])
def test_a_missing_file_is_one_sentence(name, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=f'{name}: There is no file'):
        run_tool(monkeypatch, name, tmp_path / 'none.json')


WITHOUT_MODELS = """
import runpy, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        blocked = 'torch', 'mmengine', 'mmcv', 'mmdet', 'mmpretrain', 'diffusers'
        if name.split('.')[0] in blocked:
            raise ImportError(name + ' is not there')

sys.meta_path.insert(0, Blocker())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


@pytest.mark.parametrize('name', ['robustness_report.py', 'compare_robustness.py'])
def test_a_page_needs_neither_torch_nor_an_mm_package(name, write, tmp_path):
    path = write(make_results())
    command = [sys.executable, '-c', WITHOUT_MODELS, str(TOOLS / name)]
    flags = ['--out', str(tmp_path / 'a.html')] if 'report' in name else []
    done = subprocess.run(
        [*command, str(path), *flags], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    if flags:
        assert '0.350' in (tmp_path / 'a.html').read_text()


class Proxy(socketserver.StreamRequestHandler):
    """Takes every request of the browser, answers none."""

    def handle(self):
        self.server.asked.append(self.rfile.readline().decode(errors='replace'))


def browse(path, folder):
    """Open a file; its document, what its console says, whom it asked for what."""
    with socketserver.ThreadingTCPServer(('127.0.0.1', 0), Proxy) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [BROWSER, '--headless', '--no-sandbox', '--disable-gpu']
        command += ['--disable-quic', '--no-first-run', '--disable-sync']
        command += ['--disable-background-networking', '--disable-component-update']
        command += [f'--user-data-dir={folder}', '--enable-logging=stderr']
        command += [f'--proxy-server=127.0.0.1:{server.server_address[1]}']
        command += ['--proxy-bypass-list=<-loopback>', '--dump-dom', path.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        server.shutdown()
    console = [line for line in done.stderr.splitlines() if 'CONSOLE' in line]
    return done.stdout, console, [a for a in server.asked if 'mmdiff.invalid' in a]


@pytest.mark.skipif(BROWSER is None, reason='no chromium or google-chrome is installed')
def test_a_browser_shows_the_page_and_asks_nobody(write, tmp_path):
    (tmp_path / 'a.png').write_bytes(png('blue'))
    outside = '<img src="http://mmdiff.invalid/x.png">'
    gallery = [picture_of('a.png', outside)]
    results = make_results(gallery=gallery, unexplained=[outside])
    html = render(build_page(read_reports([write(results)])))
    (tmp_path / 'page.html').write_text(html)
    dom, console, asked = browse(tmp_path / 'page.html', tmp_path / 'profile')
    page = Page(dom)
    assert page.rows == Page(html).rows and '0.350' in dom
    for section in ('flags', 'lead', 'attacks', 'classes', 'gallery', 'origin'):
        assert page.text[section].strip()
    assert sum(tag == 'svg' for tag, _ in page.tags) == 2
    assert sum(tag == 'img' for tag, _ in page.tags) == 1
    assert not console and not asked
    # The same eyes see a page that does ask, and one whose policy is broken.
    policy = re.search('<meta http-equiv="Content-Security[^>]*>', html)[0]
    broken = html.replace('</body>', outside + '</body>')
    for text, refused in ((broken, True), (broken.replace(policy, ''), False)):
        (tmp_path / 'page.html').write_text(text)
        _, console, asked = browse(tmp_path / 'page.html', tmp_path / 'profile')
        assert bool(asked) != refused and ('Policy' in str(console)) == refused
