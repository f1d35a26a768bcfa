"""One perturbation, fitted on some images and tested on others."""

import copy
import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from test_robust_test_loop import (  # noqa: F401 (fixtures)
    _quick,
    make_runner,
    robust,
    run,
    toy_root,
    weights,
)

from mmdiff import PGD
from mmdiff.attacks import Budget, Perturbation, RandomNoise, Universal, UniversalFit
from mmdiff.engine.loops.robust_plan import RobustPlan
from mmdiff.engine.loops.universal_loop import UniversalLoop, fit_config
from mmdiff.evaluation.checks.rows import is_blind
from mmdiff.evaluation.entry import main_metric

FIT, HELD = 'ImageSets/Main/fit.txt', 'ImageSets/Main/held.txt'
TOOL = Path(__file__).parents[3] / 'tools' / 'fit_universal.py'


@pytest.fixture(autouse=True)
def _halves(toy_root):  # noqa: F811
    """The four images that the detector knows: two to fit on, two to test on."""
    names = (toy_root / 'ImageSets/Main/val.txt').read_text().split()
    for file, part in ((FIT, names[:2]), (HELD, names[2:])):
        (toy_root / file).write_text('\n'.join(part))


RUNNERS = []  # one for all fits: what a fit leaves in it is nothing


@pytest.fixture
def fitting(toy_root, weights, tmp_path):  # noqa: F811
    """``fitting(out, **settings)``: a runner whose test is a fit."""

    def make(out='delta.safetensors', ann_file=FIT, **settings):
        if not RUNNERS:
            RUNNERS.append(make_runner(toy_root, tmp_path, {}, weights=weights))
        (runner,) = RUNNERS
        data = copy.deepcopy(runner.cfg.test_dataloader)
        data.dataset.ann_file = ann_file
        runner.cfg.test_dataloader = runner._test_dataloader = data
        loop = dict(
            type='mmdiff.UniversalLoop',
            attack=dict(type='PGD', eps=16, objective='detections'),
            out=str(tmp_path / out),
            held_out=dict(data.dataset.to_dict(), ann_file=HELD),
            epochs=3,
            batch_size=1,
        )
        runner._test_loop = {**loop, **settings}
        return runner

    return make


@pytest.fixture
def cut(monkeypatch):
    """``cut(k)``: the fit is stopped before its k-th step from now; ``None``: never."""
    step, left = UniversalFit.step, [None]

    def stopping(self, batch, number):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] = None if left[0] is None else left[0] - 1
        return step(self, batch, number)

    monkeypatch.setattr(UniversalFit, 'step', stopping)
    return lambda steps: left.__setitem__(0, steps)


def test_it_hurts_images_that_it_was_not_fitted_on_more_than_noise(
    fitting,
    robust,  # noqa: F811
    tmp_path,
):
    attack = PGD(24, objective='detections', step_size=4)
    metrics = fitting(attack=attack, epochs=10).test()
    assert metrics['objective/epoch_10'] > metrics['objective/epoch_1'] + 1
    file = str(tmp_path / 'delta.safetensors')
    attacks = [
        dict(type='mmdiff.Universal', file=file),
        dict(type='mmdiff.RandomNoise', eps=24),
    ]
    report = run(robust(attacks, data=dict(ann_file=HELD)))
    rows = {row['key']: row for row in report['results']}
    attacked, noisy = rows['universal_eps24'], rows['random_noise_eps24']
    value = main_metric(attacked['metrics'])
    assert value < main_metric(noisy['metrics']) - 0.1
    assert attacked['sanity']['max_delta'] == 24.0
    assert attacked['cost']['grad_evals'] == 0 and attacked['flags'] == []
    assert '2 images of images, objective detections, 10 ep' in attacked['fitted_on']
    assert 'random_noise' in report['sanity'] and 'square' not in report['sanity']


def test_a_fit_that_was_cut_gives_the_file_of_an_uninterrupted_one(
    fitting, cut, tmp_path
):
    fitting('whole.safetensors').test()
    cut(5)  # in the last of three epochs of two steps
    with pytest.raises(KeyboardInterrupt):
        fitting().test()
    state = tmp_path / 'delta.unfinished.safetensors'
    assert Perturbation.load(state).epochs_done == 2
    assert not (tmp_path / 'delta.safetensors').exists()
    with pytest.raises(ValueError, match='is unfinished'):
        Universal(file=str(state))
    cut(2)  # no more are missing
    fitting().test()
    whole, resumed = tmp_path / 'whole.safetensors', tmp_path / 'delta.safetensors'
    assert whole.read_bytes() == resumed.read_bytes() and not state.exists()
    cut(0)
    assert fitting().test() == {}  # it is there


def test_what_is_there_of_another_fit_is_refused_or_replaced(fitting, cut, tmp_path):
    fitting(epochs=1).test()
    first = (tmp_path / 'delta.safetensors').read_bytes()
    for other in (dict(epochs=2), dict(epochs=1, attack=PGD(8))):
        with pytest.raises(ValueError, match=r'delta.* is of another fit \(Linf 16;'):
            fitting(**other).test()
    fitting(attack=PGD(8, objective='detections'), epochs=1, fresh=True).test()
    assert Perturbation.load(tmp_path / 'delta.safetensors').budget == Budget(8)
    assert (tmp_path / 'delta.safetensors').read_bytes() != first


def test_images_of_the_test_set_are_left_out(fitting, toy_root):  # noqa: F811
    loop = fitting(ann_file='ImageSets/Main/val.txt').test_loop
    assert (loop.chosen, loop.left_out) == ([0, 1], 2)
    assert fitting(ann_file='ImageSets/Main/val.txt', indices=1).test_loop.chosen == [0]
    with pytest.raises(ValueError, match='no images to fit on: 2 of 2 are in the test'):
        fitting(ann_file=HELD).test_loop  # noqa: B018


@pytest.mark.parametrize(
    'settings, words',
    [
        (dict(out='delta.npy'), 'must be a .safetensors file'),
        (dict(attack=RandomNoise(8)), 'is fitted by PGD, eps above 0'),
        (dict(attack=PGD(0)), 'is fitted by PGD, eps above 0'),
        (dict(epochs=0), 'epochs=0 must be at least 1'),
        (dict(batch_size=0), 'batch_size=0 must be at least 1'),
        (dict(indices=0), 'indices=0 must be at least 1'),
    ],
)
def test_settings_that_no_fit_can_have_are_refused(settings, words):
    given = {**dict(attack=PGD(8), out='delta.safetensors'), **settings}
    with pytest.raises(ValueError, match=words) as caught:
        UniversalLoop(None, None, **given)
    assert '\n' not in str(caught.value)


def test_a_fit_of_nothing_is_no_file(fitting, tmp_path):
    nowhere = PGD(8, mask=dict(type='boxes', grow=-500))
    with pytest.raises(ValueError, match='zero after an epoch: no gradient came'):
        fitting(attack=nowhere, epochs=1).test()
    assert not list(tmp_path.glob('*.safetensors'))


def test_training_images_are_read_once_and_as_in_the_test():
    def leaf(name, **more):
        return dict(type='VOCDataset', ann_file=name, pipeline=['train'], **more)

    mixed = dict(type='MultiImageMixDataset', dataset=leaf('a'), pipeline=['mosaic'])
    repeated = dict(type='RepeatDataset', times=3, dataset=leaf('b', filter_cfg=1))
    train = dict(type='ConcatDataset', datasets=[mixed, repeated])
    test = dict(type='VOCDataset', ann_file='c', pipeline=['test'])
    cfg = Config(
        dict(
            train_dataloader=dict(dataset=train, batch_size=4),
            test_dataloader=dict(dataset=test, batch_size=2),
        )
    )
    before = copy.deepcopy(cfg.to_dict())
    made = fit_config(cfg, epochs=3)
    parts = [dict(leaf('a'), pipeline=['test']), leaf('b', filter_cfg=1)]
    parts[1]['pipeline'] = ['test']
    assert made.test_dataloader.dataset.to_dict()['datasets'] == parts
    assert made.test_cfg.held_out.ann_file == 'c' and made.test_cfg.epochs == 3
    assert made.test_cfg.name == 'a' and cfg.to_dict() == before
    with pytest.raises(ValueError, match='The config has no train_dataloader'):
        fit_config(Config(dict(test_dataloader=dict(dataset=test))))


def test_only_noise_is_compared_with_an_attack_without_steps(tmp_path):
    file = tmp_path / 'delta.safetensors'
    Perturbation(torch.ones(3, 8, 8), Budget(4), order='bgr').save(file)
    plan = RobustPlan([Universal(file=str(file))], 4, 2, 3 * 64 * 64)
    assert plan.checked.entry.key == 'universal_eps4'
    assert list(plan.controls) == ['random_noise'] and is_blind(plan.checked.entry)


@pytest.fixture
def tool(fitting, weights, tmp_path, monkeypatch):  # noqa: F811
    """``tool(*flags)``: run tools/fit_universal.py on a config file."""
    cfg = copy.deepcopy(fitting(ann_file=HELD).cfg)
    cfg.train_dataloader = copy.deepcopy(cfg.test_dataloader)
    cfg.train_dataloader.dataset.update(ann_file=FIT, pipeline=[], test_mode=False)
    cfg.dump(tmp_path / 'tiny.py')

    def start(*flags, checkpoint=weights):
        argv = [str(TOOL), str(tmp_path / 'tiny.py'), str(checkpoint), *flags]
        monkeypatch.setattr(sys, 'argv', argv)
        runpy.run_path(str(TOOL), run_name='__main__')

    return start


def test_the_tool_fits_on_the_training_images_of_a_config(tool, tmp_path, capsys):
    out = str(tmp_path / 'delta.safetensors')
    work = '--work-dir', str(tmp_path / 'work')
    tool('--eps', '8', '--out', out, '--epochs', '1', '--options', 'mask=boxes', *work)
    fitted = Perturbation.load(out)
    assert fitted.budget == Budget(8, mask='boxes') and fitted.values.shape[0] == 3
    assert f'2 images of {FIT}, objective detections' in fitted.fitted_on
    for flags, words in (
        (('--eps', '8', '--out', out), 'is of another fit'),
        (('--eps', '8', '--out', out, '--options', 'mask=box'), "mask='box' is unk"),
        (('--eps', '8', '--out', out, '--objective', 'best'), "objective='best' is"),
    ):
        with pytest.raises(SystemExit) as caught:
            tool(*flags, *work)
        sentence = str(caught.value)
        assert sentence.startswith('fit_universal.py: ') and words in sentence
        assert '\n' not in sentence
    with pytest.raises(SystemExit, match='There is no checkpoint none.pth'):
        tool('--eps', '8', '--out', out, checkpoint='none.pth')
