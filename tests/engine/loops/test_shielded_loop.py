"""The loop on a detector behind a shield: what the report says of its gradient."""

import json

import pytest
import torch
from conftest import TINY_UNET
from test_robust_test_loop import (  # noqa: F401 (fixtures)
    _quick,
    make_runner,
    toy_root,
    weights,
)

from mmdiff import PurifiedModel
from mmdiff.evaluation.report import build_page, read_reports

ATTACKS = [
    dict(type='mmdiff.PGD', eps=4, steps=2),
    dict(type='mmdiff.RandomNoise', eps=4),
]


@pytest.fixture
def tested(toy_root, weights, tmp_path):  # noqa: F811
    """``tested(name, attacks, **shield)``: report and file of a run on four images."""

    def test(name, attacks=ATTACKS, evaluations=1, **kwargs):
        cfg = dict(
            type='mmdiff.RobustTestLoop',
            attacks=attacks,
            num_gallery=0,
            sanity_images=2,
            name=name,
            evaluations=evaluations,
        )
        runner = make_runner(toy_root, tmp_path / name, cfg, weights=weights)
        torch.manual_seed(0)
        shield = dict(
            type='mmdiff.OneStepDenoiser', model=TINY_UNET, timestep=20, **kwargs
        )
        runner.model = PurifiedModel(runner.model, shield)
        runner.test()  # loads the detector's own checkpoint behind the shield
        path = runner.test_loop.out
        return json.loads(path.read_text()), path

    return test


def rows_of(report):
    return {row['key']: row for row in report['results']}


def test_rows_name_their_gradient_and_bpda_is_flagged(tested):
    exact, path = tested('exact')
    assert exact['shield'] == dict(
        kind='OneStepDenoiser',
        gradient='exact',
        noise='fixed',
        prior='random weights',
        settings=dict(timestep=20, noise_seed=0),
    )
    rows = rows_of(exact)
    assert rows['clean']['image_score'] > 0.5  # the checkpoint came through
    assert rows['pgd_total_eps4']['gradient'] == 'exact'
    assert 'gradient' not in rows['random_noise_eps4']
    codes = {flag['code'] for row in rows.values() for flag in row['flags']}
    assert not codes & {'gradient_replaced', 'randomised'}
    page = build_page(read_reports([path]))
    assert any('pass OneStepDenoiser (timestep 20' in note for note in page.notes)

    bpda, _ = tested('bpda', gradient='bpda')
    row = rows_of(bpda)['pgd_total_eps4']
    flags = {flag['code']: flag['text'] for flag in row['flags']}
    assert row['gradient'] == 'bpda' and bpda['unreliable']
    assert 'gradient of the identity in the place' in flags['gradient_replaced']
    assert row['image_score'] >= rows['pgd_total_eps4']['image_score']


def test_fresh_noise_is_seen_and_evaluations_measure_it(tested):
    attacks = [dict(type='mmdiff.PGD', eps=4, steps=1)]
    report, _ = tested('fresh', attacks, evaluations=2, noise='fresh')
    row = rows_of(report)['pgd_total_eps4']
    assert 'randomised' in [flag['code'] for flag in row['flags']]
    assert report['sanity']['clean_runs_differ'] > 0 and len(row['evaluations']) > 1
