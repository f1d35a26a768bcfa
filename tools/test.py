"""Test a model: mmdet's own tools/test.py with its flags, and runs under attack."""

import argparse
import os
import runpy
import sys
from pathlib import Path

import mmdet
from mmengine.config import Config, DictAction
from mmengine.runner import Runner
from rich.console import Console
from rich.markup import escape

from mmdiff.engine.gallery import try_to_draw
from mmdiff.engine.loop_settings import is_robust, robust_settings
from mmdiff.engine.loops import RobustTestLoop
from mmdiff.engine.loops.image_store import FORMATS
from mmdiff.engine.presets import (
    attack_configs,
    has_preset,
    protocol_of,
    task_of_config,
)
from mmdiff.evaluation.evaluations import describe_evaluations
from mmdiff.evaluation.rounding import rounding_notes
from mmdiff.evaluation.tables import broke_table, results_table
from mmdiff.utils.configs import mistakes_in_a_sentence, work_dir_of

# Models whose config says where all of their weights are; `none` is their checkpoint.
WITHOUT_CHECKPOINT = ('DiffusionClassifier',)
MMDET_TEST = Path(mmdet.__file__).parent / '.mim' / 'tools' / 'test.py'


def parse_args() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=f"{__doc__} Flags not listed here are mmdet's. With --attack, "
        '--out takes a .json file, and --show-dir gets clean and attacked images with '
        'their detections; so with a config whose test_cfg is a RobustTestLoop. What '
        'is found is kept in the work dir: a run that was killed is resumed by '
        'starting it again.',
        epilog='The checkpoint of a DiffusionClassifier, which has none, is the word '
        'none. mmdet flags: config checkpoint --work-dir --out --show --show-dir '
        '--wait-time --cfg-options --launcher --tta',
    )
    parser.add_argument(
        '--attack',
        help='NAME[,NAME] of pgd, apgd, dag, ..., torch_NAME of torchattacks, or '
        'quick, standard, paper_*',
    )
    parser.add_argument('--eps', help='budgets in pixel units: 2,4,8 (of 255)')
    parser.add_argument('--steps', type=int, help='steps of the attacks')
    parser.add_argument(
        '--attack-options',
        nargs='+',
        action=DictAction,
        default={},
        help='further settings of the attacks: restarts=3 objective=cls',
    )
    parser.add_argument('--indices', type=int, help='attack the first N images only')
    add_flag_of_evaluations(parser)
    parser.add_argument(
        '--skip-fooled',
        action='store_true',
        help='do not attack an image again once its score (AP) is 0',
    )
    add_flags_of_saving(parser)
    resume = parser.add_mutually_exclusive_group()
    resume.add_argument('--resume', action='store_true', help='the default')
    resume.add_argument('--fresh', action='store_true', help='forget earlier runs')
    return parser.parse_known_args()


def add_flag_of_evaluations(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--evaluations',
        type=int,
        metavar='N',
        help='of a model that draws (fresh noise, dropout): test what each attack left '
        'N times, with other seeds; rows are the mean, with lowest and highest',
    )


def add_flags_of_saving(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--save-adversarial',
        metavar='DIR',
        help='write the images of every row as a data set of their own',
    )
    parser.add_argument(
        '--save-format',
        choices=FORMATS,
        help='png: 8 bits, rounded within the budget (the default); npy: exact floats',
    )


def load_config(args: argparse.Namespace) -> Config:
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    return cfg


def check_flags(args: argparse.Namespace) -> None:
    """Complain about flags of mmdet that make no sense under attack."""
    if args.tta:
        raise ValueError(
            'An attack has no one input to perturb under test-time augmentation; run '
            'without --tta.'
        )
    if args.out and not args.out.endswith('.json'):
        raise ValueError(f'With --attack, --out writes .json, not {args.out!r}.')
    if args.show:
        raise ValueError('With --attack there is no --show; use --show-dir.')


def checkpoint_of(cfg: Config, checkpoint: str) -> str | None:
    """The checkpoint to load; the word none is no checkpoint."""
    if checkpoint != 'none':
        return checkpoint
    model = cfg.model
    if model.type.endswith('SmoothedClassifier'):  # its weights are the inner one's
        model = model.classifier
    kind = model.type.rpartition('.')[2]
    if kind not in WITHOUT_CHECKPOINT:
        raise ValueError(
            f'{kind} has random weights without a checkpoint; give a file or a URL '
            f'(none is for {", ".join(WITHOUT_CHECKPOINT)}).'
        )
    return None


def check_weights(checkpoint: str | None) -> None:
    """Complain about a checkpoint that is neither a file nor a URL."""
    if (
        checkpoint is not None
        and not Path(checkpoint).is_file()
        and '://' not in checkpoint
    ):
        raise FileNotFoundError(
            f'There is no checkpoint {checkpoint}; give a file or a URL.'
        )


def attacked_config(ours: argparse.Namespace, args: argparse.Namespace) -> Config:
    """The config of the run: the model's, with a RobustTestLoop."""
    cfg = load_config(args)
    if ours.attack is not None:
        options = ours.attack_options
        cfg.test_cfg = {
            **robust_settings(cfg.get('test_cfg') or {}),
            'attacks': attack_configs(
                ours.attack, ours.eps, ours.steps, task_of_config(cfg), **options
            ),
            'protocol': protocol_of(ours.attack),
            'leave_out': has_preset(ours.attack),
        }
    if args.out:
        cfg.test_cfg.out = args.out
    for flag in ('skip_fooled', 'fresh'):
        if getattr(ours, flag):
            cfg.test_cfg[flag] = True
    cfg.launcher = args.launcher
    cfg.work_dir = work_dir_of(cfg, args.config, args.work_dir)
    cfg.load_from = checkpoint_of(cfg, args.checkpoint)
    for name in ('evaluations', 'save_adversarial', 'save_format'):
        if getattr(ours, name) is not None:
            cfg.test_cfg[name] = getattr(ours, name)
    if ours.indices is not None:
        cfg.test_cfg.indices = ours.indices  # the loop's: wrappers take none
    return cfg


def test_under_attack(ours: argparse.Namespace, args: argparse.Namespace) -> None:
    check_flags(args)
    with mistakes_in_a_sentence():
        runner = Runner.from_cfg(attacked_config(ours, args))
        loop = runner.test_loop  # built now, it says what is wrong with the set
    check_weights(runner.cfg.load_from)
    runner.test()
    if runner.rank == 0:
        console = Console()
        console.print(results_table(loop.results).to_rich())
        broke = broke_table(loop.results)
        if broke is not None:
            console.print(broke.to_rich())
        for attack in loop.results.left_out:
            console.print(escape(f'left out: {attack.attack}. {attack.reason}'))
        notes = rounding_notes(loop.results.entries, loop.results.clean)
        for note in [*describe_evaluations(loop.results), *notes]:
            console.print(escape(note))
        for what in loop.results.not_measured:
            console.print(escape(f'not measured: {what} (boxes only)'))
        if loop.results.intervals is not None and loop.results.intervals.problem:
            console.print(escape(loop.results.intervals.problem))
        for reason in loop.results.reasons:
            console.print(f'[bold red](!) unreliable:[/] {escape(reason)}')
        console.print(f'written to {escape(str(loop.out))}')
        if loop.sets is not None:
            console.print(f'images saved in {escape(str(loop.sets.folder))}')
        if args.show_dir:
            draw_grids(loop, Path(runner.work_dir) / args.show_dir)


def test_plainly(args: argparse.Namespace) -> None:
    """Test a model without a checkpoint, and without an attack."""
    cfg = load_config(args)
    cfg.launcher = args.launcher
    cfg.work_dir = work_dir_of(cfg, args.config, args.work_dir)
    cfg.load_from = checkpoint_of(cfg, args.checkpoint)
    with mistakes_in_a_sentence():
        runner = Runner.from_cfg(cfg)
    runner.test()


def draw_grids(loop: RobustTestLoop, folder: Path) -> None:
    """Draw the first images under every attack."""
    shown = range(min(3, len(loop.images)))
    for step in loop.plan.in_order:
        if not step.entry.sanity.blocked:  # else there is no attacked image
            file = folder / f'{step.entry.key}.png'
            try_to_draw(file, {loop.name: loop.runner}, step.attack, shown)


def check_attack_is_named(ours: argparse.Namespace, robust: bool) -> None:
    """Exit if there are flags of an attack and no attack."""
    names = ['eps', 'steps', 'attack_options']
    if not robust:
        names += ['indices', 'evaluations', 'skip_fooled', 'resume', 'fresh']
        names += ['save_adversarial', 'save_format']
    given = [name for name in names if getattr(ours, name) not in (None, False, {})]
    if given:
        flag = given[0].replace('_', '-')
        sys.exit(f'--{flag} belongs to an attack; add --attack pgd.')


def main() -> None:
    ours, rest = parse_args()
    sys.argv = [sys.argv[0], *rest]
    mmdet_test = runpy.run_path(str(MMDET_TEST))
    args = mmdet_test['parse_args']()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    try:
        if ours.attack is None:
            robust = is_robust(load_config(args).get('test_cfg') or {})
            check_attack_is_named(ours, robust)
            if not robust and args.checkpoint == 'none':
                test_plainly(args)
                return
            if not robust:
                mmdet_test['main']()
                return
        test_under_attack(ours, args)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'test.py: {error}')


if __name__ == '__main__':
    main()
