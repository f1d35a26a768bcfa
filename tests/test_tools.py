"""The command lines, as a user runs them."""

import argparse
import dataclasses
import json
import logging
import os
import runpy
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from rich.console import Console

from mmdiff.datasets.toy_classes import make_toy_classes
from mmdiff.datasets.toy_shapes import make_toy_voc

ROOT = Path(__file__).parents[1]
CONFIG = 'configs/detection/faster-rcnn_toy-unet_dfpn_1xb4-2e_toy-voc.py'


def run(*args, check=True, cwd=ROOT):
    env = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))
    done = subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
    )
    assert not check or done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    return make_toy_voc(tmp_path_factory.mktemp('data') / 'toy', 8, 4)


def options(toy, *more):
    loaders = [
        f'{s}_dataloader.dataset.data_root={toy}/' for s in ('train', 'val', 'test')
    ]
    return [
        '--cfg-options',
        *loaders,
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        'test_dataloader.num_workers=0',
        'test_dataloader.persistent_workers=False',
        *more,
    ]


def attacked_config(path, text, ours=(), work_dir=None, **cfg_options):
    """The config that tools/test.py --attack pgd makes of a config file's text."""
    path.write_text(text)
    flags = dict(
        attack='pgd',
        eps='4',
        steps=1,
        attack_options={},
        indices=None,
        evaluations=None,
        skip_fooled=False,
        fresh=False,
        save_adversarial=None,
        save_format=None,
    )
    flags.update(ours)
    args = argparse.Namespace(
        config=str(path),
        checkpoint='none.pth',
        work_dir=work_dir,
        cfg_options=cfg_options,
        out=None,
        launcher='none',
    )
    tool = runpy.run_path(str(ROOT / 'tools' / 'test.py'))
    return tool['attacked_config'](argparse.Namespace(**flags), args)


SMALL = "test_dataloader = dict(dataset=dict(type='VOCDataset'))\n"


def test_the_work_dir_is_the_flags_then_the_configs_then_of_its_name(tmp_path):
    """In the order of mmdet's own tools/test.py."""
    path = tmp_path / 'tiny.py'
    of_config = SMALL + "work_dir = 'from_config'\n"
    assert attacked_config(path, of_config, work_dir='a').work_dir == 'a'
    assert attacked_config(path, of_config).work_dir == 'from_config'
    assert attacked_config(path, SMALL, **{'work_dir': 'b'}).work_dir == 'b'
    assert attacked_config(path, SMALL).work_dir == './work_dirs/tiny'


@pytest.mark.parametrize('tool', ['test_corruptions.py', 'pretrain_diffusion.py'])
def test_other_tools_write_where_the_config_says_too(tool, tmp_path, monkeypatch):
    path, configs = tmp_path / 'tiny.py', []

    def stop(cfg):
        configs.append(cfg)
        raise ValueError('stopped')

    monkeypatch.setattr('mmengine.runner.Runner.from_cfg', stop)
    main = runpy.run_path(str(ROOT / 'tools' / tool))['main']
    weights = ['none.pth'] if tool == 'test_corruptions.py' else []
    for text, flags in (
        (SMALL + "work_dir = 'from_config'\n", []),
        (SMALL + "work_dir = 'from_config'\n", ['--work-dir', 'a']),
        (SMALL, ['--cfg-options', 'work_dir=b']),
        (SMALL, []),
    ):
        path.write_text(text)
        monkeypatch.setattr(sys, 'argv', [tool, str(path), *weights, *flags])
        with pytest.raises(SystemExit, match='stopped'):
            main()
    folders = [cfg.work_dir for cfg in configs]
    assert folders == ['from_config', 'a', 'b', './work_dirs/tiny']


@pytest.mark.parametrize('task', ['detection', 'classification'])
def test_the_quick_start_ends_with_its_numbers_where_no_picture_is_drawn(
    task, tmp_path, monkeypatch, capsys
):
    def fail(*args):
        raise RuntimeError('no font')

    monkeypatch.setattr('mmdiff.engine.gallery.draw_grid', fail)
    main = runpy.run_path(str(ROOT / 'tools' / 'quickstart.py'))['main']
    known = main.__globals__['TASKS'][task]
    quick = dataclasses.replace(known, make_set=lambda *args, **kwargs: None)
    answers = {
        'TASKS': {task: quick},
        'run_all': lambda works, console: None,
        'load': lambda cfg: SimpleNamespace(logger=logging.getLogger()),
        'read_reports': lambda files: [],
        'build_page': lambda models: None,
        'render': lambda page: 'page',
        'show': lambda page, console: console.print('the table'),
    }
    for name, answer in answers.items():
        monkeypatch.setitem(main.__globals__, name, answer)
    argv = ['quickstart.py', task, '--work-dir', str(tmp_path)]
    monkeypatch.setattr(sys, 'argv', argv)
    main()
    shown = capsys.readouterr().out
    assert 'the table' in shown and 'report.html is in' in shown
    assert 'grid.png' not in shown and (tmp_path / 'report.html').is_file()


def test_a_model_that_fails_in_the_quick_start_is_one_sentence(
    tmp_path, monkeypatch, capsys
):
    work = runpy.run_path(str(ROOT / 'tools' / 'quickstart.py'))['Work']
    console = Console(force_terminal=False, width=80)
    script = tmp_path / 'fails.py'
    script.write_text(
        "print('11/25 - x - INFO - half of it')\nraise ValueError('no')\n"
    )
    monkeypatch.setattr(sys, 'orig_argv', [sys.executable, str(script)])
    one = work('from scratch', tmp_path / 'logs' / 'log.txt', console)
    with pytest.raises(ChildProcessError, match='from scratch was not .*log.txt'):
        one.run()
    assert 'from scratch: half of it' in capsys.readouterr().out
    assert 'ValueError: no' in one.log.read_text()


def test_the_word_none_is_the_checkpoint_of_a_prior_that_classifies(tmp_path):
    tool = runpy.run_path(str(ROOT / 'tools' / 'test.py'))
    name = 'diffusion-classifier_cifar10-patch2_cifar10-folders.py'
    cfg = Config.fromfile(ROOT / 'configs' / 'robustness' / name)
    assert tool['checkpoint_of'](cfg, 'none') is None
    assert tool['checkpoint_of'](cfg, 'some.pth') == 'some.pth'
    smoothed = Config.fromfile(ROOT / 'configs' / 'robustness' / f'smoothed-{name}')
    assert tool['checkpoint_of'](smoothed, 'none') is None
    smoothed.model.classifier.type = 'ImageClassifier'
    with pytest.raises(ValueError, match='ImageClassifier has random weights'):
        tool['checkpoint_of'](smoothed, 'none')
    other = Config(dict(model=dict(type='mmdet.FCOS')))
    with pytest.raises(ValueError, match='FCOS has random weights without a checkp'):
        tool['checkpoint_of'](other, 'none')


def test_settings_of_test_cfg_stay_under_attack(tmp_path):
    text = SMALL + "test_cfg = dict(type='TestLoop', fp16=True, _scope_='mmdet')\n"
    cfg = attacked_config(tmp_path / 'tiny.py', text, **{'test_cfg.num_gallery': 0})
    assert cfg.test_cfg.type == 'mmdiff.RobustTestLoop'
    assert (cfg.test_cfg.fp16, cfg.test_cfg.num_gallery) == (True, 0)
    assert '_scope_' not in cfg.test_cfg


def test_settings_of_a_robust_test_loop_stay_but_for_those_of_the_flags(tmp_path):
    loop = "type='mmdiff.RobustTestLoop', name='mine', attacks=[], protocol='paper'"
    cfg = attacked_config(tmp_path / 'tiny.py', SMALL + f'test_cfg = dict({loop})\n')
    assert (cfg.test_cfg.name, cfg.test_cfg.protocol) == ('mine', 'adaptive')
    assert cfg.test_cfg.attacks[0]['eps'] == 4


def test_a_robust_test_loop_is_known_by_its_class(tmp_path):
    head = 'from mmdiff.engine.loops import RobustTestLoop\n'
    loop = 'test_cfg = dict(type=RobustTestLoop, name="mine", attacks=[])\n'
    cfg = attacked_config(tmp_path / 'tiny.py', head + SMALL + loop)
    assert cfg.test_cfg.name == 'mine' and cfg.test_cfg.attacks[0]['eps'] == 4
    ours = dict(attack=None, indices=3)
    cfg = attacked_config(tmp_path / 'tiny.py', head + SMALL + loop, ours)
    assert (cfg.test_cfg.indices, cfg.test_cfg.attacks) == (3, [])


def test_flags_of_saving_are_settings_of_the_loop(tmp_path):
    ours = dict(save_adversarial='sets', save_format='npy')
    cfg = attacked_config(tmp_path / 'tiny.py', SMALL, ours)
    assert (cfg.test_cfg.save_adversarial, cfg.test_cfg.save_format) == ('sets', 'npy')
    assert 'save_format' not in attacked_config(tmp_path / 'tiny.py', SMALL).test_cfg


def test_a_setting_that_the_robust_loop_does_not_take_is_refused_by_name(tmp_path):
    text = SMALL + "test_cfg = dict(type='TestLoop', draw=True)\n"
    with pytest.raises(ValueError, match='does not take test_cfg.draw;'):
        attacked_config(tmp_path / 'tiny.py', text)


def test_another_loop_is_replaced_and_named(tmp_path, capsys):
    text = SMALL + "test_cfg = dict(type='MyLoop', fp16=True)\n"
    cfg = attacked_config(tmp_path / 'tiny.py', text)
    assert cfg.test_cfg.type == 'mmdiff.RobustTestLoop' and cfg.test_cfg.fp16
    assert 'replaces the MyLoop' in capsys.readouterr().out
    attacked_config(tmp_path / 'tiny.py', SMALL + "test_cfg = dict(type='TestLoop')\n")
    assert 'replaces' not in capsys.readouterr().out


@pytest.fixture(scope='module')
def trained(toy, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('work')
    more = ['train_cfg.max_epochs=1', 'default_hooks.logger.interval=1']
    run('tools/train.py', CONFIG, '--work-dir', work_dir, *options(toy, *more))
    return work_dir


@pytest.mark.slow
def test_train_writes_a_small_checkpoint_and_a_log(trained):
    import mmdet

    checkpoint = trained / 'epoch_1.pth'
    # Neck and head with their optimizer state, without the frozen U-Net.
    assert checkpoint.stat().st_size < 20e6
    (log,) = trained.glob('*/vis_data/scalars.json')
    assert 'loss_rpn_cls' in log.read_text()
    analyze = Path(mmdet.__file__).parent / '.mim/tools/analysis_tools/analyze_logs.py'
    out = trained / 'curve.png'
    # Its default style is none of matplotlib's.
    style = ['--style', 'ggplot']
    run(analyze, 'plot_curve', log, '--keys', 'loss', '--out', out, *style)
    assert out.stat().st_size > 0


@pytest.mark.slow
def test_test_under_attack(trained, toy):
    done = run(
        'tools/test.py',
        CONFIG,
        trained / 'epoch_1.pth',
        '--work-dir',
        trained / 'test',
        '--show-dir',
        'shown',
        '--attack',
        'pgd,dag',
        '--eps',
        '4,8',
        '--steps',
        '1',
        '--indices',
        '2',
        *options(toy),
    )
    report = json.loads((trained / 'test' / 'robustness.json').read_text())
    kinds = [(r['attack'], r.get('eps')) for r in report['results']]
    names = ('pgd', 'dag', 'worst_case')
    assert kinds == [('clean', None), *((name, e) for e in (4, 8) for name in names)]
    for entry in report['results']:
        assert 0 <= entry['metrics']['pascal_voc/mAP'] <= 1
    assert report['results'][2]['sanity']['images'] == 2
    assert report['dataset']['indices'] == 2
    assert 'robust mAP' in done.stdout
    shown = sorted(path.name for path in (trained / 'test' / 'shown').iterdir())
    keys = [r['key'] for r in report['results'] if r['role'] == 'attack']
    assert shown == sorted(f'{key}.png' for key in keys)
    for picture in report['gallery']:
        assert (trained / 'test' / picture['file']).stat().st_size > 0


SMALL_QUICKSTART = """
import runpy, sys
import mmdiff.datasets.toy_classes as toy_classes
import mmdiff.datasets.toy_shapes as toy_shapes
toy_shapes.make_toy_voc = lambda *args, **kwargs: None  # a smaller set is there
toy_classes.make_toy_classes = lambda *args, **kwargs: None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


@pytest.mark.slow
@pytest.mark.parametrize('task', ['detection', 'classification'])
def test_quickstart(task, toy, tmp_path):
    """In its default work folder, which is relative to where it runs."""
    script = tmp_path / 'small.py'
    script.write_text(SMALL_QUICKSTART)
    quickstart = ROOT / 'tools' / 'quickstart.py'
    folder, attacks = tmp_path / 'work_dirs' / 'quickstart', {'pgd', 'dag'}
    words = []  # detection is what it does without
    if task == 'classification':
        pytest.importorskip('mmpretrain')
        toy = make_toy_classes(tmp_path / 'toy', 12, 6)
        folder = folder.with_name('quickstart-classification')
        words, attacks = [task], {'pgd', 'torch_apgdt'}
    flags = ['--data', toy, '--num-images', '2', '--max-epochs', '1']
    done = run(script, quickstart, *words, *flags, cwd=tmp_path)
    assert 'frozen prior' in done.stdout and 'from scratch' in done.stdout
    for name in ('frozen prior', 'from scratch'):
        file = folder / name.replace(' ', '-') / 'robustness.json'
        report = json.loads(file.read_text())
        labels = [entry['label'] for entry in report['results']]
        assert report['name'] == name and report['task'] == task
        assert labels[0] == 'clean' and 'worst_case' in labels
        rows = [row for row in report['results'] if row['role'] == 'attack']
        assert {row['attack'] for row in rows} == attacks
        assert report['gallery']
        assert all(
            (file.parent / picture['file']).is_file() for picture in report['gallery']
        )
    assert (folder / 'report.html').is_file() and (folder / 'grid.png').is_file()


TWO_RANKS = str(ROOT / 'tools' / 'benchmarks' / 'cpu_rank.py')


@pytest.mark.slow
def test_two_ranks_give_the_numbers_of_one(trained, toy, tmp_path):
    reports = []
    for ranks in (1, 2):
        out = tmp_path / f'{ranks}.json'
        launcher = (
            []
            if ranks == 1
            else [
                '-m',
                'torch.distributed.run',
                '--nproc_per_node=2',
                '--master_port=29511',
                TWO_RANKS,
            ]
        )
        more = [
            'env_cfg.dist_cfg.backend=gloo',
            'test_dataloader.batch_size=1',
        ]
        run(
            *launcher,
            'tools/test.py',
            CONFIG,
            trained / 'epoch_1.pth',
            '--out',
            out,
            '--work-dir',
            tmp_path / str(ranks),
            '--attack',
            'pgd',
            '--eps',
            '8',
            '--steps',
            '2',
            '--launcher',
            'none' if ranks == 1 else 'pytorch',
            *options(toy, *more),
        )
        reports.append(json.loads(out.read_text()))
    for one, two in zip(*(report['results'] for report in reports)):
        assert one['metrics'] == two['metrics']
        if 'sanity' in one:
            assert one['sanity'] == two['sanity'] and one['sanity']['images'] == 4
    assert reports[0]['sanity'] == reports[1]['sanity']


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_numbers(trained, toy, tmp_path):
    """Killed without warning (SIGKILL) in the middle, then started again."""

    def command(name):
        return [
            'tools/test.py',
            CONFIG,
            trained / 'epoch_1.pth',
            '--work-dir',
            tmp_path / name,
            *('--attack', 'pgd', '--eps', '4,8', '--steps', '3'),
            *options(toy, 'test_dataloader.batch_size=1'),
        ]

    env = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))
    process = subprocess.Popen(
        [sys.executable, *map(str, command('killed'))],
        cwd=ROOT,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    state = tmp_path / 'killed' / 'robust_state'
    pattern = '*/pgd_total_eps8-*/*.safetensors'
    while process.poll() is None and not list(state.glob(pattern)):
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    before = {file: file.stat().st_mtime_ns for file in state.rglob('*.safetensors')}
    assert 0 < len(list(state.glob(pattern))) < 4
    run(*command('killed'))
    run(*command('whole'))
    reports = []
    for name in ('killed', 'whole'):
        report = json.loads((tmp_path / name / 'robustness.json').read_text())
        assert report['complete']
        for entry in report['results']:
            del entry['cost']['seconds'], entry['cost']['peak_mem']
        reports.append(report)
    assert reports[0] == reports[1]
    assert all(file.stat().st_mtime_ns == at for file, at in before.items())


@pytest.mark.slow
def test_a_config_with_the_loop_takes_its_flags(trained, toy, tmp_path):
    config, preset = ROOT / CONFIG, ROOT / 'configs/_base_/attacks/paper_ares.py'
    path = tmp_path / 'attacked.py'
    path.write_text(
        f'_base_ = ["{config}", "{preset}"]\ntest_cfg = _base_.robust_test_cfg\n'
    )
    command = 'tools/test.py', path, trained / 'epoch_1.pth', '--work-dir', tmp_path
    more = 'test_cfg.attacks.0.steps=2', 'test_dataloader.batch_size=1'
    done = run(*command, '--indices', '2', '--fresh', *options(toy, *more))
    assert 'attacked: robust mAP (protocol: paper)' in ' '.join(done.stdout.split())
    report = json.loads((tmp_path / 'robustness.json').read_text())
    clean, pgd = report['results']
    assert report['protocol'] == 'paper' and clean['num_images'] == 2
    assert (pgd['steps'], pgd['objective'], pgd['eps']) == (2, 'cls', 2)


@pytest.mark.slow
def test_plain_test_is_mmdets(trained, toy):
    done = run(
        'tools/test.py',
        CONFIG,
        trained / 'epoch_1.pth',
        '--work-dir',
        trained / 'plain',
        '--out',
        trained / 'plain.pkl',
        *options(toy),
    )
    assert (trained / 'plain.pkl').is_file()
    assert 'missing keys' not in done.stdout + done.stderr


@pytest.mark.slow
def test_mmdets_own_train_script_runs_the_config(toy, tmp_path):
    import mmdet

    script = Path(mmdet.__file__).parent / '.mim' / 'tools' / 'train.py'
    more = ['train_cfg.max_epochs=1', 'train_dataloader.dataset.indices=4']
    run(script, CONFIG, '--work-dir', tmp_path, *options(toy, *more))
    assert (tmp_path / 'epoch_1.pth').is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    'flags, words',
    [
        (['--attack', 'pgd', '--eps', '-1'], 'eps=-1.0 is negative'),
        (['--attack', 'cw'], "no attack 'cw'"),
        (['--attack', 'pgd', '--attack-options', 'gamma=1'], "argument 'gamma'"),
        (['--attack', 'pgd', '--show'], 'use --show-dir'),
        (['--attack', 'pgd', '--tta'], 'without --tta'),
        (['--attack', 'pgd', '--out', 'x.pkl'], '--out writes .json'),
        (['--attack', 'pgd', '--eps', '2;4'], 'must be numbers in pixel units'),
        (['--attack', 'pgd', '--attack-options', 'objective=x'], "objective='x'"),
        (['--attack', 'pgd', '--indices', '0'], 'The test set has no images'),
        (['--attack', 'pgd', '--resume', '--fresh'], 'not allowed with argument'),
        (['--attack', 'pgd,paper_dag'], 'mixes attacks as published with others'),
        (['--eps', '8'], '--eps belongs to an attack'),
        (['--attack-options', 'eot=4'], '--attack-options belongs to an attack'),
        (['--skip-fooled'], '--skip-fooled belongs to an attack'),
        (['--evaluations', '4'], '--evaluations belongs to an attack'),
        (['--save-adversarial', 'd'], '--save-adversarial belongs to an attack'),
    ],
)
def test_bad_flags_are_one_sentence(flags, words, toy, tmp_path):
    more = ['--work-dir', tmp_path, *options(toy)] if '--indices' in flags else []
    done = run('tools/test.py', CONFIG, 'none.pth', *flags, *more, check=False)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert words in last and 'Traceback' not in done.stderr


@pytest.mark.slow
def test_a_setting_of_another_type_is_one_sentence(toy, tmp_path):
    """A TypeError of a part that is built, which mmengine hands on."""
    wrong = options(toy, 'model.backbone.num_noise=two', 'model.backbone.taps=1')
    flags = '--attack', 'pgd', '--work-dir', tmp_path, *wrong
    done = run('tools/test.py', CONFIG, 'none.pth', *flags, check=False)
    assert done.returncode != 0 and 'Traceback' not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('test.py: ') and "argument 'taps'" in last


@pytest.mark.slow
def test_pretrain_resumes_and_exports(toy, tmp_path):
    import torch

    from mmdiff import DiffusionModel

    tiny = [
        'model.model.source.block_out_channels=(16,16,16,16)',
        'model.model.source.norm_num_groups=4',
        'model.autocast=None',
        f'train_dataloader.dataset.data_root={toy}/',
        'train_dataloader.batch_size=2',
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        'default_hooks.logger.interval=1',
        'default_hooks.checkpoint.interval=2',
    ]
    command = [
        'tools/pretrain_diffusion.py',
        'configs/pretrain/unet-patch4_1xb32-2400it_toy-voc.py',
        '--work-dir',
        tmp_path,
        '--num-samples',
        '2',
    ]
    run(*command, '--cfg-options', *tiny, 'train_cfg.max_iters=2')
    done = run(*command, '--resume', '--cfg-options', *tiny, 'train_cfg.max_iters=3')
    log = done.stdout + done.stderr
    assert 'Iter(train) [3/3]' in log and '[1/3]' not in log
    prior = DiffusionModel.from_pretrained(str(tmp_path / 'prior')).eval()
    assert prior.patch_size == 4
    # Bit for bit what was trained.
    checkpoint = torch.load(tmp_path / 'iter_3.pth', weights_only=False)['state_dict']
    for name, value in prior.unet.state_dict().items():
        assert torch.equal(value, checkpoint[f'diffusion.unet.{name}'])
    card = (tmp_path / 'prior' / 'README.md').read_text()
    assert '3 steps of 2 images, seed 0' in card
    for name in ('samples.png', 'loss.png', 'SHA256'):
        assert (tmp_path / 'prior' / name).stat().st_size > 0
    assert not (tmp_path / 'prior.partial').exists()


@pytest.fixture(scope='module')
def class_folders(tmp_path_factory):
    import numpy as np
    from PIL import Image

    root = tmp_path_factory.mktemp('classes')
    rng = np.random.default_rng(0)
    for split in ('train', 'minitest'):
        for name in ('a', 'b', 'c'):
            (root / split / name).mkdir(parents=True)
            for i in range(2):
                pixels = rng.integers(256, size=(32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f'{i}.png')
    return root


@pytest.fixture(scope='module')
def conditional_prior(class_folders, tmp_path_factory):
    """Work folder of a class-conditional training with EMA, held-out loss, samples."""
    work_dir = tmp_path_factory.mktemp('conditional')
    loaders = [
        f'{split}_dataloader.{option}'
        for split in ('train', 'val')
        for option in (
            f'dataset.data_root={class_folders}',
            'batch_size=3',
            'num_workers=0',
            'persistent_workers=False',
        )
    ]
    run(
        'tools/pretrain_diffusion.py',
        'configs/pretrain/unet-patch2_1xb64-3600it_cifar10.py',
        '--work-dir',
        work_dir,
        '--dtype',
        'float16',
        '--num-samples',
        '6',
        '--cfg-options',
        'model.model.source.block_out_channels=(16,16,16)',
        'model.model.source.norm_num_groups=4',
        'model.model.source.attn_norm_num_groups=4',
        'model.model.source.attention_head_dim=4',
        'model.model.source.num_class_embeds=4',
        'model.model.source.null_class=3',
        'val_dataloader.dataset.indices=[0,3,5]',
        'train_cfg.max_iters=4',
        'train_cfg.val_interval=2',
        'custom_hooks.1.steps=2',
        'default_hooks.logger.interval=1',
        *loaders,
    )
    return work_dir


@pytest.mark.slow
def test_class_conditional_pretraining(conditional_prior):
    import torch

    from mmdiff import DiffusionModel

    (log,) = conditional_prior.glob('*/vis_data/scalars.json')
    held_out = [
        line
        for line in map(json.loads, log.read_text().splitlines())
        if 'held_out/mean' in line
    ]
    assert [line['step'] for line in held_out] == [2, 4]
    assert 'held_out/t_83' in held_out[0]
    images = sorted(p.name for p in conditional_prior.glob('*/vis_data/vis_image/*'))
    assert images == ['samples_2.png', 'samples_4.png']
    prior = DiffusionModel.from_pretrained(str(conditional_prior / 'prior'))
    assert prior.num_classes == 3 and prior.null_class == 3
    card = (conditional_prior / 'prior' / 'README.md').read_text()
    assert 'Held-out loss by noise level: t_83 ' in card and '3 classes' in card
    # The averaged weights (EMAHook saves them as the model's), in half precision.
    (path,) = conditional_prior.glob('iter_*.pth')
    checkpoint = torch.load(path, weights_only=False)
    name = 'diffusion.unet.conv_in.weight'
    last = checkpoint['ema_state_dict'][f'module.{name}']
    assert not torch.equal(checkpoint['state_dict'][name], last)
    for name, value in prior.unet.state_dict().items():
        expected = checkpoint['state_dict'][f'diffusion.unet.{name}']
        assert torch.equal(value, expected.half().float())


@pytest.mark.slow
def test_two_ranks_pretrain_one_prior(toy, tmp_path):
    import torch

    from mmdiff import DiffusionModel

    launcher = ['-m', 'torch.distributed.run', '--nproc_per_node=2']
    run(
        *launcher,
        '--master_port=29513',
        TWO_RANKS,
        'tools/pretrain_diffusion.py',
        'configs/pretrain/unet-patch4_1xb32-2400it_toy-voc.py',
        '--work-dir',
        tmp_path / 'work',
        '--launcher',
        'pytorch',
        '--num-samples',
        '1',
        '--cfg-options',
        'env_cfg.dist_cfg.backend=gloo',
        'model.model.source.block_out_channels=(16,16,16,16)',
        'model.model.source.norm_num_groups=4',
        f'train_dataloader.dataset.data_root={toy}/',
        'train_dataloader.batch_size=2',
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        'train_cfg.max_iters=2',
    )
    prior = DiffusionModel.from_pretrained(str(tmp_path / 'work' / 'prior')).eval()
    card = (tmp_path / 'work' / 'prior' / 'README.md').read_text()
    assert '2 steps of 4 images' in card
    with torch.no_grad():
        assert torch.isfinite(prior.predict(torch.zeros(1, 3, 128, 128), 10)).all()


@pytest.mark.slow
def test_sampling_tool(conditional_prior, tmp_path):
    import numpy as np

    out = tmp_path / 'images.npz'
    command = ['tools/sample_images.py', conditional_prior / 'prior', '--steps', '2']
    done = run(*command, '--num', '5', '--out', out, '--class-balanced')
    assert '5 of 5 images drawn now' in done.stdout
    packed = np.load(out)
    assert packed['image'].shape == (5, 32, 32, 3)
    assert packed['label'].tolist() == [0, 1, 2, 0, 1]
    done = run(*command, '--num', '5', '--out', out, check=False)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert 'sample_images.py: ' in done.stderr and 'is there already' in done.stderr


@pytest.mark.slow
def test_wheel_carries_configs_and_assets(tmp_path):
    source = tmp_path / 'source'
    files = subprocess.run(
        ['git', 'ls-files', '-co', '--exclude-standard'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    for name in files:
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    run(
        '-m',
        'pip',
        'wheel',
        '--no-deps',
        '--no-build-isolation',
        '-q',
        '-w',
        tmp_path,
        '.',
        cwd=source,
    )
    (wheel,) = tmp_path.glob('*.whl')
    names = zipfile.ZipFile(wheel).namelist()
    assert 'mmdiff/assets/toy_voc/diffusion_pytorch_model.safetensors' in names
    assert f'mmdiff/.mim/{CONFIG}' in names
    target = tmp_path / 'site'
    zipfile.ZipFile(wheel).extractall(target)
    code = (
        f'import sys; sys.path.insert(0, {str(target)!r}); import mmdiff;'
        'from mmdiff import config_path; from mmengine.config import Config;'
        'from mmdet.registry import MODELS;'
        'from mmdet.utils import register_all_modules;'
        'register_all_modules(); path = config_path("detection/'
        f'{Path(CONFIG).name}"); assert path.startswith({str(target)!r}), path;'
        'MODELS.build(Config.fromfile(path).model); print(mmdiff.__file__)'
    )
    env = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH='')
    done = subprocess.run(
        [sys.executable, '-c', code],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-1500:]
    assert str(target) in done.stdout


def test_toy_tool_refuses_other_sets(toy):
    done = run('tools/make_toy_voc.py', '--out', toy, check=False)
    assert done.returncode == 2
    assert 'not a toy set of these arguments' in done.stderr


@pytest.fixture
def search_tool(toy, tmp_path, monkeypatch):
    """``search_tool(*flags)``: runs tools/search_taps.py on a tiny prior."""
    from mmengine.logging import MMLogger

    config = tmp_path / 'tiny.py'
    source = (
        "dict(_delete_=True, source=dict(type='UNet2DModel', sample_size=32, "
        'block_out_channels=(4, 8), norm_num_groups=2, '
        "down_block_types=('DownBlock2D',) * 2, up_block_types=('UpBlock2D',) * 2))"
    )
    config.write_text(
        f"_base_ = '{ROOT / CONFIG}'\nmodel = dict(backbone=dict(model={source}, "
        "out_indices=('mid',)))\n"
    )
    main = runpy.run_path(str(ROOT / 'tools' / 'search_taps.py'))['main']
    flags = ['--indices', '6', '--held-out', '2', '--steps', '1', '--eps', '8']

    def search(*more):
        own = [*flags, *more, '--work-dir', str(tmp_path / 'work'), *options(toy)]
        monkeypatch.setattr(sys, 'argv', ['search_taps.py', str(config), *own])
        main()

    yield search
    MMLogger._instance_dict.pop('search_taps', None)


def test_taps_are_searched_and_the_lines_to_copy_shown(search_tool, tmp_path, capsys):
    search_tool('--taps', 'mid', 'mid+up.1', '--times', '10', '--num-noise', '1')
    shown = ' '.join(capsys.readouterr().out.split())
    assert 'timestep=10' in shown and 'neck=dict(in_channels=[' in shown
    report = json.loads((tmp_path / 'work' / 'search.json').read_text())
    assert [cell['taps'] for cell in report['cells']] == [['mid'], ['mid', 'up.1']]
    assert report['config'] == 'tiny' and report['complete']
    for name in ('search.md', 'search.png'):
        assert (tmp_path / 'work' / name).stat().st_size > 0


@pytest.mark.parametrize(
    'flags, words',
    [
        (['--taps', 'up.9'], "no tap 'up.9'; the taps of this network are"),
        (['--times', '2000'], 'timestep=2000 is out of range'),
        (['--minutes', '0'], 'no time left for any cell; give more minutes'),
        (['--eps', '2;4'], '--eps 2;4 must be numbers in pixel units'),
        (['--eps', '0'], 'must be budgets above 0'),
    ],
    ids=str,
)
def test_a_search_that_cannot_be_is_one_sentence(search_tool, flags, words):
    with pytest.raises(SystemExit) as refused:
        search_tool(*flags)
    assert words in refused.value.code and '\n' not in refused.value.code
    assert refused.value.code.startswith('search_taps.py: ')
