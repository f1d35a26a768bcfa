"""What the preset `standard` leaves, beside that of version 0.1 and its members.

Two small ResNet detectors that know sixteen generated images (those of
`planted_defects.py`), attacked on these, and any detector of yours. Attacks are kept:
a run that was killed goes on where it stopped.
"""

import argparse
import logging
import re
import warnings
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner
from planted.detectors import make_data, make_runner, trained
from rich.console import Console

from mmdiff.engine.presets import attack_configs
from mmdiff.evaluation.entry import Entry
from mmdiff.evaluation.results import Results
from mmdiff.evaluation.tables import Table, score
from mmdiff.utils.configs import mistakes_in_a_sentence
from mmdiff.utils.files import whole_file

DETECTORS = ('faster-rcnn', 'fcos')
VERSION_01 = (
    {'type': 'mmdiff.APGD', 'proposals': 'fixed'},
    {'type': 'mmdiff.APGD', 'proposals': 'fixed', 'objective': 'cls'},
    {'type': 'mmdiff.DAG'},
    {'type': 'mmdiff.APGD', 'proposals': 'fixed', 'objective': 'vanishing'},
    {'type': 'mmdiff.Square', 'steps': 200},
)
PAGE = """# How strong `standard` is

Made by `python tools/benchmarks/attack_strength.py --detectors {detectors}`:
{images} images, {steps} steps, Linf, protocol `adaptive`, mAP at IoU 0.5 with 95 %
intervals over images (too narrow on so few). Worst cases are what all attacks of a
preset do together.

{table}
"""


def attacks_of(preset: str, eps: float, steps: int) -> list[dict]:
    """Configs of the attacks of a preset, at one budget."""
    if preset == 'standard':
        return attack_configs('standard', f'{eps}', steps, 'detection')
    return [{'eps': eps, 'steps': steps, **attack} for attack in VERSION_01]


def runner_of(args: argparse.Namespace, name: str, test_cfg: dict) -> Runner:
    """A Runner of a detector of the script, or of ``NAME=CONFIG,CHECKPOINT``."""
    name, _, files = name.partition('=')
    work_dir = args.work_dir / name
    if not files:
        model = trained(name, args.work_dir)
        runner = make_runner(make_data(args.work_dir), name, work_dir, test_cfg)
        runner.model.load_state_dict(model.state_dict())
        return runner
    config, _, checkpoint = files.partition(',')
    cfg = Config.fromfile(config)
    cfg.update(work_dir=str(work_dir), load_from=checkpoint, log_level='WARNING')
    cfg.test_cfg = test_cfg
    cfg.experiment_name = name
    with mistakes_in_a_sentence():
        return Runner.from_cfg(cfg)


def attacked(args: argparse.Namespace, name: str, eps: float, preset: str) -> Results:
    """Test a detector with the attacks of a preset."""
    test_cfg = {
        'type': 'mmdiff.RobustTestLoop',
        'attacks': attacks_of(preset, eps, args.steps),
        'out': str(args.out / file_name(name, preset)),
        'indices': args.num_images,
        'sanity_images': 4,
        'num_gallery': 0,
    }
    runner = runner_of(args, name, test_cfg)
    runner.test()
    return runner.test_loop.results


def file_name(name: str, preset: str) -> str:
    """File of a report: ``'fcos-version-0.1.json'``."""
    return f'{name.partition("=")[0]}-{preset.replace(" ", "-")}.json'


def label_of(entry: Entry, preset: str) -> str:
    """How a row is called, whichever preset it is of."""
    if entry.role == 'worst_case':
        return f'**worst case, {preset}**'
    settings = entry.settings
    name = f'{entry.label}, {settings["steps"]} steps' if settings else entry.label
    moving = settings.get('proposals') == 'moving' and entry.attack == 'apgd'
    return f'{name}, moving proposals' if moving else name


def table_of(columns: dict[str, dict[str, str]]) -> Table:
    """Attacks by detectors; `-` where a detector did not meet an attack."""
    names = dict.fromkeys(row for cells in columns.values() for row in cells)
    rows = [[n, *(cells.get(n, '-') for cells in columns.values())] for n in names]
    return Table('', ['attack', *columns], rows)


def detector_at(text: str) -> str:
    """Check an argument, ``NAME@EPS`` or ``NAME=CONFIG,CHECKPOINT@EPS``."""
    name, _, eps = text.rpartition('@')
    if not re.fullmatch(r'[\d.]+', eps) or not ('=' in name or name in DETECTORS):
        known = ' or '.join(DETECTORS)
        raise argparse.ArgumentTypeError(
            f'{text!r} must be NAME@EPS of {known}, or NAME=CONFIG,CHECKPOINT@EPS.'
        )
    return text


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--detectors',
        nargs='+',
        type=detector_at,
        default=[f'{name}@4' for name in DETECTORS],
        metavar='NAME[=CONFIG,CHECKPOINT]@EPS',
        help=f'one of {", ".join(DETECTORS)}, or yours',
    )
    parser.add_argument('--num-images', type=int, default=16)
    parser.add_argument('--steps', type=int, default=50)
    parser.add_argument(
        '--work-dir', type=Path, default=Path('work_dirs/benchmarks/planted_defects')
    )
    parser.add_argument('--out', type=Path, default=Path('docs/results/strength'))
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    warnings.simplefilter('ignore')
    logging.disable(logging.WARNING)
    columns: dict[str, dict[str, str]] = {}
    for given in args.detectors:
        name, _, eps = given.rpartition('@')
        cells = columns.setdefault(f'{name.partition("=")[0]}, {eps}/255', {})
        for preset in ('standard', 'version 0.1'):
            for entry in attacked(args, name, float(eps), preset).entries:
                cells[label_of(entry, preset)] = score(entry)
    table = table_of(columns)
    Console(width=140).print(table.to_rich())
    # Files of the user's own are named by what they are.
    named = [re.sub('=.*@', '=CONFIG,CHECKPOINT@', name) for name in args.detectors]
    page = PAGE.format(
        detectors=' '.join(named),
        images=args.num_images,
        steps=args.steps,
        table=table.to_markdown(),
    )
    args.out.mkdir(parents=True, exist_ok=True)
    with whole_file(args.out / 'strength.md') as partial:
        partial.write_text(page, encoding='utf-8')


if __name__ == '__main__':
    main()
