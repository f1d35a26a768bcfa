import base64
import copy
import csv
import io
import json
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
from PIL import Image

from mmdiff.evaluation.report import build_page, read_reports, render, to_csv

TOOLS = Path(__file__).parents[2] / 'tools'
BROWSER = next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))),
    None,
)


def entry(attack, score, eps=None, images=120, **more):
    base = dict(attack=attack, eps=eps, num_images=images, steps=10, restarts=1, eot=1)
    if attack != 'clean':
        base['norm'] = 'linf'
    cost = dict(seconds=12.5, grad_evals=1200, peak_mem=1)
    metrics = {'pascal_voc/AP50': 0.9, 'pascal_voc/mAP': score}
    return {**base, 'metrics': metrics, 'cost': cost, **more}


def report(**changes):
    """Schema 2, as RobustTestLoop writes it."""
    results = [
        entry('clean', 0.8, per_class=dict(cat=0.9, dog=0.7)),
        entry('pgd', 0.6123, 2),
        entry('pgd', 0.4, 8, per_class=dict(cat=0.6, dog=0.2)),
        entry('square', 0.5, 8, cost=dict(seconds=9, grad_evals=0, queries=600)),
        entry('ensemble', 0.35, 8, per_class=dict(cat=0.54, dog=0.16)),
        entry('noise', 0.79, 8),
        entry('dag', 0.1, steps=150),
    ]
    base = dict(
        schema='mmdiff-robustness/2',
        name='prior',
        config='configs/a.py',
        checkpoint='a.pth',
        dataset=dict(type='VOCDataset', ann_file='val.txt', data_root='d/'),
        versions=dict(torch='2.8.0'),
        device='cpu',
        protocol='adaptive',
        cost=dict(trainable_params=1_120_000, train_seconds=109.4),
        results=results,
        unreliable=False,
        reasons=[],
    )
    return {**base, **changes}


def first_schema(config='configs/b.py', **changes):
    """Schema 1, as tools/test.py wrote it: no names, no image counts of their own."""
    sanity = dict(images=24, changed=24, zero_grads=0, nonfinite_grads=0)
    cost = dict(seconds=3.0, grad_evals=480, peak_mem=1)
    results = [
        dict(attack='clean', metrics={'pascal_voc/mAP': 0.5}, cost=cost),
        *(
            dict(
                attack='pgd',
                norm='linf',
                eps=eps,
                steps=20,
                metrics={'pascal_voc/mAP': score},
                cost=cost,
                sanity=sanity,
            )
            for eps, score in ((2, 0.3), (8, 0.55))
        ),
    ]
    base = report(config=config, schema='mmdiff-robustness/1', results=results)
    base = {k: v for k, v in base.items() if k not in ('name', 'cost')}
    reasons = ['pgd at eps=8 raised the metric above the clean one']
    return {**base, 'unreliable': True, 'reasons': reasons, **changes}


@pytest.fixture
def write(tmp_path):
    def write(raw, name='robustness.json'):
        path = tmp_path / name
        path.write_text(raw if isinstance(raw, str) else json.dumps(raw))
        return path

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
    raw = report()
    page, _ = page_of(write(raw))
    rows = {(r[0], r[1]): r[2:] for r in page.rows['attacks'][2:]}
    assert len(rows) == len(raw['results'])
    for result in raw['results']:
        name, eps, score = (result[k] for k in ('attack', 'eps', 'metrics'))
        budget = '' if name == 'clean' else f'Linf {eps}' if eps else 'no budget'
        label = name if name in ('clean', 'ensemble') else name.upper()
        steps, restarts, eot, *cells = rows[label, budget]
        score = score['pascal_voc/mAP']
        gradients = '0 + 600' if name == 'square' else '1,200'
        seconds = '9' if name == 'square' else '12'
        assert (steps, restarts, eot) == (str(result['steps']), '1', '1')
        kept = f'{100 * score / 0.8:.0f} %'
        assert cells == [f'{score:.3f}', kept, gradients, seconds]
    # The ensemble leads, not the PGD beside it; the control and clean never do.
    (lead,) = page.rows['lead'][1:]
    assert lead[1:] == [
        '0.800 120 images',
        '0.612 77 % · PGD',
        '0.350 44 % · ensemble',
        '0.100 12 % · DAG',
        '1.12 M',
        '109 s',
    ]
    assert page.rows['classes'][2:] == [
        ['cat', '0.900', '0.540', '-0.360'],
        ['dog', '0.700', '0.160', '-0.540'],
    ]
    heat = [a['style'] for _, a in page.tags if a.get('class') == 'heat']
    assert heat == ['--drop: 40%', '--drop: 77%']
    assert 'flags' not in page.text and 'notes' not in page.text
    for value in ('a.pth', 'd/', 'val.txt', 'torch 2.8.0', 'configs/a.py'):
        assert value in page.text['origin']


def test_noise_and_queries_of_a_run_without_roles(write):
    raw = first_schema()
    for result, name, score in zip(
        raw['results'][1:], ('randomnoise', 'square'), (0, 0.4)
    ):
        result.update(attack=name, eps=8, metrics={'pascal_voc/mAP': score})
        result['sanity'] = dict(images=24, queries=2400)
    page, arranged = page_of(write(raw))
    assert page.rows['lead'][1][2] == '0.400 80 % · SQUARE'  # noise is no attack
    assert [r[7] for r in page.rows['attacks'][3:]] == ['480 + 2,400'] * 2


def test_the_example_in_the_docs():
    example = TOOLS.parent / 'docs' / 'results' / 'robustness-toy-voc.json'
    page, arranged = page_of(example)
    for name, raw in json.loads(example.read_text()).items():
        (row,) = (r for r in page.rows['lead'] if r[0] == name)
        strongest = min(r['metrics']['pascal_voc/mAP'] for r in raw['results'])
        assert row[4].startswith(f'{strongest:.3f} ') and len(page.rows['classes']) == 8
    assert page.text['notes'].count('only 32 images') == 2


def test_curve_runs_through_the_numbers(write):
    _, page = page_of(write(report()))
    (path,) = re.findall(r'd="(M[^"]+)"[^>]*stroke-width: 2.5', page['curve'])
    xy = np.array(re.findall(r'[ML] ([\d.]+) ([\d.]+)', path), float)
    for pixels, values in ((xy[:, 0], [0, 2, 8]), (xy[:, 1], [0.8, 0.6123, 0.35])):
        line = np.polyfit(values, pixels, 1)
        assert np.abs(np.polyval(line, values) - pixels).max() < 1e-3
        assert abs(line[0]) > 1  # pixels do move with the values
    assert page['curve'].count('stroke-dasharray') == 1  # the control
    assert page['cost'].count('trainable parameters, millions') == 1
    # Clean, attacked, and attacked again filled, at one x, for each of three costs.
    marks = re.findall(
        r'<use [^>]* x="([\d.]+)" y="([\d.]+)"[^>]*#3182bd', page['cost']
    )
    xy = np.array(marks, float).reshape(3, 3, 2)
    assert (xy[:, :, 0] == xy[:, :1, 0]).all() and (xy[:, 1] == xy[:, 2]).all()
    zero = max(float(y) for y in re.findall(r'<use [^>]* y="([\d.]+)"', page['cost']))
    shares = (zero - xy[:, 1, 1]) / (zero - xy[:, 0, 1])
    assert np.abs(shares - 0.35 / 0.8).max() < 1e-4


def test_reports_of_both_schemas_and_the_quick_start_stand_side_by_side(write):
    training = dict(seconds=109.4, trainable_parameters=1_120_000)
    several = {'mine': first_schema(training=training), 'other': report(name='x')}
    page, arranged = page_of(write(several), f'third={write(report(), "b.json")}')
    assert [m['name'] for m in arranged['models']] == ['mine', 'other', 'third']
    mine, other, third = page.rows['lead'][1:]
    assert mine[0] == 'mine' and mine[-2:] == other[-2:] == ['1.12 M', '109 s']
    assert mine[4] == 'not run' and other[1:] == third[1:]
    assert mine[3] == '0.550 unreliable 110 % · PGD'
    row = next(r for r in page.rows['attacks'] if r[:3] == ['PGD', 'Linf 8', '20'])
    assert row[5:8] == ['0.550 unreliable', '110 %', '480'] and row[9] == '-'
    # Said in plain words, at the top, and nowhere about the other models.
    assert 'mine: pgd at eps=8 raised the metric above' in page.text['flags']
    assert 'measures chance' in page.text['flags']
    assert 'other' not in page.text['flags']
    notes = page.text['notes']
    assert 'mine: only 24 images' in notes and 'other: only' not in notes
    assert 'differ in images: 24, 120, 120' in notes and 'same attacks' in notes
    assert (
        'tells this cost' not in notes and 'attacks met by all' not in arranged['cost']
    )


def test_what_does_not_compare_is_said(write):
    raw = report(unreliable=True)
    raw['results'][2] = entry('pgd', 0.3, 8, images=40, reasons=['pgd was odd'])
    page, _ = page_of(write(raw))
    assert 'PGD, Linf 8: on 40 images, the clean mAP on 120' in page.text['notes']
    assert 'alone it leaves less than the ensemble does' in page.text['notes']
    assert 'prior: pgd was odd.' in page.text['flags']
    _, other = page_of(write(report(unreliable=True)))
    assert other['models'][0]['reasons'] == [
        'the file says that it is unreliable, without a reason'
    ]
    nothing = report(results=[entry('clean', 0.0), entry('pgd', 0.0, 8)])
    page, _ = page_of(write(nothing))
    assert page.rows['attacks'][3][5:7] == ['0.000', '-']  # a share of nothing


def test_rows_that_count_others_and_other_readings_are_marked(write):
    raw = report()
    raw['results'][2]['cumulative'] = True
    raw['results'][2]['metrics_worst_case'] = {'pascal_voc/mAP': 0.377}
    raw['results'][3]['quantize'] = True
    raw['sanity'] = dict(larger_canvas=7)
    page, arranged = page_of(write(raw))
    rows = {(r[0], r[1]): r[5] for r in page.rows['attacks'][2:]}
    assert rows['PGD', 'Linf 8'].split() == ['0.400*', 'by', 'AP', '0.377']
    assert rows['PGD', 'Linf 2'] == '0.612' and rows['SQUARE', 'Linf 8, uint8']
    assert 'Rows marked * were run on what is left' in page.text['notes']
    assert '7 images were predicted beside larger ones' in page.text['notes']
    assert '| PGD | Linf 8 | 10 | 0.400* |' in render(arranged, 'report.md.j2')
    table = list(csv.DictReader(io.StringIO(to_csv(arranged['models']))))
    assert [row['cumulative'] for row in table[:3]] == ['False', 'False', 'True']
    assert table[2]['worst_case'] == '0.377' and table[3]['quantize'] == 'True'


def test_what_a_flag_means_is_said(write):
    """The page explains each reason that the checks can give."""
    reasons = [
        'pgd at eps=8 did not raise its objective (2 to 1)',
        'pgd at eps=8 changed 0 of 4 images only',
        'pgd at eps=8 is not converged: more steps lower the mean AP',
        'pgd at eps=8 hurts less than noise of its size',
    ]
    page, _ = page_of(write(report(unreliable=True, reasons=reasons)))
    for words in ('its way', 'hardly attacked', 'more steps: read', 'lead nowhere'):
        assert words in page.text['flags']


def test_markdown_and_csv_agree_with_the_page(write):
    paths = write(report()), write(first_schema(), 'b.json')
    page, arranged = page_of(*paths)
    lines = render(arranged, 'report.md.j2').splitlines()
    table = [[c.strip() for c in ln.split('|')[1:-1]] for ln in lines if ln[:1] == '|']
    assert table[0][3:] == ['prior', 'kept', 'b', 'kept']
    expected = []
    for row in page.rows['attacks'][2:]:
        cells = [c.replace('unreliable', '(!)') for c in row]
        pairs = [(cells[k], cells[k + 1] or '-') for k in (5, 9)]
        expected.append([*cells[:3], *pairs[0], *pairs[1]])
    assert table[2:] == expected
    assert ['PGD', 'Linf 8', '20', '-', '-', '0.550 (!)', '110 %'] in expected
    assert any(ln.startswith('**(!) b:** pgd at eps=8 raised') for ln in lines)
    rows = list(csv.DictReader(io.StringIO(to_csv(arranged['models']))))
    wanted = [r for m in (report(), first_schema()) for r in m['results']]
    assert [float(r['value']) for r in rows] == [
        r['metrics']['pascal_voc/mAP'] for r in wanted
    ]
    assert float(rows[1]['kept']) == 0.6123 / 0.8
    assert [r['reasons'] != '' for r in rows].count(True) == 1


def test_names_from_files_stay_text(write):
    bad = '<script>alert(1)</script>|$x_{$"\'[red]'
    raw = report(name=bad, reasons=[bad], checkpoint=bad, protocol=bad, device=bad)
    raw['results'][1]['label'] = raw['results'][2]['label'] = bad
    raw['results'][2]['norm'] = '<b>"&$x_{$'
    raw['results'][0]['per_class'] = raw['results'][4]['per_class'] = {bad: 0.5}
    raw['gallery'] = [dict(image_id=bad, attack=bad, eps=bad, file='"><script>')]
    raw['versions'] = {bad: bad}
    page, arranged = page_of(write(raw))
    assert not {'script', 'b"'} & {tag for tag, _ in page.tags}
    assert page.rows['lead'][1][0] == bad and bad in page.text['flags']
    assert '<script' not in render(arranged, 'report.md.j2')
    header, rule = render(arranged, 'report.md.j2').splitlines()[:2]
    assert header.replace('\\|', '').count('|') == rule.count('|')


def png(color):
    out = io.BytesIO()
    Image.new('RGB', (8, 8), color).save(out, 'PNG')
    return out.getvalue()


def test_gallery_holds_the_pictures_and_names_missing_ones(write, tmp_path, capsys):
    (tmp_path / 'a.png').write_bytes(png('red'))
    (tmp_path.parent / 'outside.png').write_bytes(png('red'))
    parts = {k: base64.b64encode(png(k)).decode() for k in ('blue', 'green', 'yellow')}
    three = dict(zip(('clean', 'change', 'attacked'), parts.values()))
    gallery = [
        dict(image_id='1', attack='pgd', eps=8, file='a.png'),
        dict(image_id='2', attack='pgd', eps=8, **three),
        dict(image_id='3', attack='pgd', eps=8, file='gone.png'),
        dict(image_id='4', attack='pgd', eps=8, file='../outside.png'),
    ]
    path = write(report(gallery=gallery))
    page, _ = page_of(path)
    images = [a['src'].split(',', 1)[1] for tag, a in page.tags if tag == 'img']
    assert [base64.b64decode(i) for i in images] == [
        png(c) for c in ('red', 'blue', 'green', 'yellow')
    ]
    assert "There is no PNG 'gone.png' beside the report." in page.text['gallery']
    assert "There is no PNG '../outside.png'" in page.text['gallery']


def changed(**changes):
    raw = copy.deepcopy(report())
    raw['results'][1].update(changes)
    return raw


@pytest.mark.parametrize(
    'raw, words',
    [
        ('no json', 'robustness.json is not JSON'),
        ('[1]', 'is no robustness report: its schema is None'),
        ({'loss': 1}, 'is no robustness report'),
        ({}, 'is no robustness report'),
        (report(schema='mmdiff-robustness/9'), "its schema is 'mmdiff-robustness/9'"),
        (report(results=report()['results'][1:]), 'has 0 clean entries'),
        (report(results=report()['results'][:1] * 2), 'has 2 clean entries'),
        (report(results=None), "the report of 'prior' is damaged"),
        (report(results=[{'attack': 'clean'}]), "damaged .KeyError: 'metrics'"),
        (changed(metrics={}), 'damaged'),
        (changed(metrics={'a/mAP': float('nan')}), 'damaged .ValueError: pgd has'),
        (changed(metrics={'a/mAP': '0.5'}), 'damaged'),
        (changed(role='hero'), 'role hero'),
    ],
)
def test_a_file_that_is_no_report_gets_a_sentence(write, raw, words):
    with pytest.raises(ValueError, match=words) as error:
        read_reports([write(raw)])
    assert str(error.value).endswith('.') and '\n' not in str(error.value)


def test_names_must_differ(write):
    a, b = write(report(), 'a.json'), write(report(), 'b.json')
    with pytest.raises(ValueError, match="Two reports are called 'prior'.*NAME="):
        read_reports([a, b])
    assert [m['name'] for m in read_reports([a, f'new={b}'])] == ['prior', 'new']
    with pytest.raises(FileNotFoundError, match='no file .*c.json'):
        read_reports([a.with_name('c.json')])


def run_tool(monkeypatch, name, *args):
    monkeypatch.setattr(sys, 'argv', [name, *map(str, args)])
    runpy.run_path(str(TOOLS / name), run_name='__main__')


def test_tools(write, tmp_path, monkeypatch, capsys):
    gallery = [dict(image_id='3', attack='pgd', eps=8, file='gone.png')]
    path = write(report(gallery=gallery))
    outs = [tmp_path / 'new' / n for n in ('a.html', 'a.md', 'a.csv')]
    flags = '--out', outs[0], '--markdown', outs[1], '--csv', outs[2]
    written = []
    for _ in range(2):  # the same bytes every time
        run_tool(monkeypatch, 'robustness_report.py', path, *flags)
        written.append([out.read_bytes() for out in outs])
        assert 'gone.png' in capsys.readouterr().err
    assert written[0] == written[1]
    other = write(first_schema('configs/[red]b.py'), 'b.json')
    monkeypatch.setenv('COLUMNS', '160')
    run_tool(monkeypatch, 'compare_robustness.py', path, other)
    shown = ' '.join(capsys.readouterr().out.split())
    for words in ('0.350 44% ensemble', '! 0.550 110% PGD', '[red]b', 'only 24 images'):
        assert words in shown
    for name in ('robustness_report.py', 'compare_robustness.py'):
        with pytest.raises(SystemExit, match=f'{name}: There is no file'):
            run_tool(monkeypatch, name, tmp_path / 'none.json')


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
    picture = base64.b64encode(png('blue')).decode()
    shown = dict(clean=picture, change=picture, attacked=picture)
    outside = '<img src="http://mmdiff.invalid/x.png">'
    gallery = [dict(image_id=outside, attack='pgd', eps=8, **shown)]
    raw = report(gallery=gallery, reasons=[outside])
    html = render(build_page(read_reports([write(raw)])))
    (tmp_path / 'page.html').write_text(html)
    dom, console, asked = browse(tmp_path / 'page.html', tmp_path / 'profile')
    page = Page(dom)
    assert page.rows == Page(html).rows and '0.350' in dom
    for section in ('flags', 'lead', 'attacks', 'classes', 'gallery', 'origin'):
        assert page.text[section].strip()
    assert sum(tag == 'svg' for tag, _ in page.tags) == 2
    assert sum(tag == 'img' for tag, _ in page.tags) == 3
    assert not console and not asked
    # The same eyes see a page that does ask, and one whose policy is broken.
    policy = re.search('<meta http-equiv="Content-Security[^>]*>', html)[0]
    broken = html.replace('</body>', outside + '</body>')
    for text, refused in ((broken, True), (broken.replace(policy, ''), False)):
        (tmp_path / 'page.html').write_text(text)
        _, console, asked = browse(tmp_path / 'page.html', tmp_path / 'profile')
        assert bool(asked) != refused and ('Policy' in str(console)) == refused
