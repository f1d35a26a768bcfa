"""The loop under a spatial attack: its budget is no ball, and every file says so."""

import json

import pytest
from test_loop_on_a_classifier import runner  # noqa: F401 (a fixture)

from mmdiff.evaluation.report import build_page, read_reports, render

pytest.importorskip('mmpretrain')


def test_reports_and_saved_sets_name_displacements(runner, tmp_path):  # noqa: F811
    runner.cfg.test_cfg.update(
        attacks=[
            dict(type='mmdiff.StAdv', eps=2, steps=4),
            dict(type='mmdiff.PGD', eps=2, steps=2),
            dict(type='mmdiff.RandomNoise', eps=2, norm='flow'),
        ],
        sanity_images=2,
        num_gallery=0,
        save_adversarial=str(tmp_path / 'sets'),
    )
    runner._test_loop = dict(runner.cfg.test_cfg)
    runner.test()
    path = tmp_path / 'work' / 'robustness.json'
    report = json.loads(path.read_text())
    rows = {row['key']: row for row in report['results']}
    row = rows['stadv_total_flow_eps2']
    assert row['norm'] == 'flow' and row['eps'] == 2
    sanity = row['sanity']
    assert 0 < sanity['max_flow'] <= 2.001 and sanity['max_beyond'] < 1e-3
    assert sanity['max_delta'] > 1 and sanity['max_l2'] > sanity['max_delta']
    assert 'left_budget' not in [flag['code'] for flag in row['flags']]
    assert rows['random_noise_flow_eps2']['role'] == 'control'
    assert rows['pgd_total_eps2']['sanity']['max_flow'] == 0
    assert not any(key.startswith('worst_case') for key in rows)  # of one attack each
    assert report['sanity']['longer'] <= 1 and 'square' not in report['sanity']
    assert 'large' not in report['sanity']
    page = build_page(read_reports([path]))
    html = render(page)
    assert 'Flow 2 px' in html and 'eps (Flow, displacement, pixels)' in html
    text = (tmp_path / 'sets' / 'stadv_total_flow_eps2' / 'README.md').read_text()
    assert 'asked: flow, eps 2 (pixels of displacement)' in text
    about = json.loads(
        (tmp_path / 'sets' / 'stadv_total_flow_eps2' / 'budget.json').read_text()
    )
    assert about['norm'] == 'flow' and about['on_disk']['linf_max'] > 1
