"""Try the checks on defects that were planted, and on models that are sound.

Every case is a robust test of a small detector that knows its images: with nothing
broken no flag may be raised, and with a defect at least one must be. The table counts
false alarms and misses, and says which flags named the cause. Cases are kept: a run
that was killed goes on where it stopped.
"""

import argparse
import json
import logging
import time
import warnings
from dataclasses import asdict
from multiprocessing.dummy import Pool as ThreadPool
from pathlib import Path

import mmdet.evaluation.functional.mean_ap as mean_ap
import torch
from planted import attacks, margins  # noqa: F401 (attacks are registered)
from planted.cases import Case, all_cases
from planted.detectors import make_data, make_runner, trained
from rich.console import Console
from rich.progress import track

from mmdiff.attacks.oracle import Region
from mmdiff.evaluation.results import Results
from mmdiff.utils.files import whole_file, write_json

HEADER = '| case | detector | clean | attacked | flags | named |\n'
HEADER += '|---|---|---|---|---|---|\n'
INTRODUCTION = """# Checks on planted defects

Made by `python tools/benchmarks/planted_defects.py --num-images {images}`. Each case is
a robust test of a small detector on {images} generated images that it was trained on,
with one attack. A *false alarm* is any flag on a healthy case, a *miss* is a defect
without any flag. *Named* says whether one of the flags is of the defect's own kind.
*Clean* and *attacked* are mAP: what a defect hides is seen beside the healthy case of
its detector.

**{alarms} false alarms in {healthy} healthy cases, {misses} misses in {broken} planted
defects, {named} of them named by a flag of their kind.**

"""
THRESHOLDS = """## Thresholds

Each was set between what healthy cases and defects show, nearer to the healthy ones
where rounding alone separates them. The table says what this run measured on either
side: the healthy case that comes nearest, and of the cases with that flag, of those
that are beyond the threshold, the one that comes nearest. Cases and thresholds were
chosen with each other in sight, so the counts above are no estimate for other models:
the margins say how far another one may be from these.

{table}
Flags without a threshold (`blocked`, `nonfinite_gradients`, `left_pixel_range`,
`attacked_padding`, `reads_truth`, `predictions_stuck`) are raised by a single image,
and `left_budget` by what float32 cannot explain. `gradients_lead_nowhere` and
`not_converged` moreover ask for more than the luck of one image, and a loss whose heads
have right gradients may fall to the lower of the two correlations, because its targets
may follow predictions.
"""


def run_case(case: Case, folder: Path, num_images: int) -> dict:
    """Test a case; return the flags of its attack and what they are based on."""
    start = time.perf_counter()
    results = run_test(case, folder, num_images)
    attacked = next(entry for entry in results.entries if entry.role == 'attack')
    return {
        'case': case.name,
        'detector': case.detector,
        'healthy': case.healthy,
        'expected': list(case.expected),
        'flags': sorted({f.code for entry in results.entries for f in entry.flags}),
        'texts': results.reasons,
        'clean': results.clean.value,
        'attacked': attacked.value,
        'sanity': results.sanity.to_json(),
        'objective': attacked.sanity.objective_ends,
        'losses': attacked.sanity.losses,
        'attack': asdict(attacked.sanity),
        'eps': attacked.eps,
        'norm': attacked.norm,
        'seconds': round(time.perf_counter() - start, 1),
    }


def run_test(case: Case, folder: Path, num_images: int) -> Results:
    """Plant the defect of a case, and attack."""
    model = trained(case.detector, folder)
    # Attacks are kept there: a change of checks or probes does not run them again.
    work_dir = folder / f'runs-{num_images}' / digest(case)
    test_cfg = {
        'type': 'mmdiff.RobustTestLoop',
        'attacks': [case.attack],
        'indices': num_images,
        'sanity_images': num_images,
        'num_gallery': 0,
    }
    data = make_data(folder)
    runner = make_runner(data, case.detector, work_dir, test_cfg, case.padded)
    runner.model.load_state_dict(model.state_dict())
    loop = runner.test_loop
    if case.plant is not None:
        case.plant(runner.model)
    if case.gt_scale is not None:
        loop.oracle.gt_scale = case.gt_scale
    if case.all_is_image:
        loop.oracle.region_of = lambda sample, shape: Region(0, 0, *shape)
    with torch.random.fork_rng():
        runner.test()
    return loop.results


def digest(case: Case) -> str:
    """Name of a case's files."""
    return ''.join(c if c.isalnum() else '_' for c in case.name)


def is_named(row: dict) -> bool:
    """Whether a flag of the defect's kind was raised."""
    return bool(set(row['expected']) & set(row['flags']))


def to_markdown(rows: list[dict], num_images: int) -> str:
    """The table, and what it comes to."""
    healthy = [row for row in rows if row['healthy']]
    broken = [row for row in rows if not row['healthy']]
    text = INTRODUCTION.format(
        images=num_images,
        alarms=sum(bool(row['flags']) for row in healthy),
        healthy=len(healthy),
        misses=sum(not row['flags'] for row in broken),
        broken=len(broken),
        named=sum(map(is_named, broken)),
    )
    for title, part in (('Healthy', healthy), ('Planted defects', broken)):
        text += f'## {title}\n\n{HEADER}'
        for row in part:
            flags = ', '.join(f'`{code}`' for code in row['flags']) or 'none'
            named = '' if row['healthy'] else ('yes' if is_named(row) else '**no**')
            text += (
                f'| {row["case"]} | {row["detector"]} | {row["clean"]:.2f} | '
                f'{row["attacked"]:.2f} | {flags} | {named} |\n'
            )
        text += '\n'
    return text + THRESHOLDS.format(table=margins.table(rows))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--work-dir', type=Path, default=Path('work_dirs/benchmarks/planted_defects')
    )
    parser.add_argument('--out', type=Path, default=Path('docs/results/checks'))
    parser.add_argument('--num-images', type=int, default=4)
    parser.add_argument('--only', default='', help='cases whose name has this in it')
    parser.add_argument(
        '--fresh',
        action='store_true',
        help='judge all cases anew; attacks that were run are kept in the work dir',
    )
    return parser.parse_args()


def main() -> None:
    args, console = parse_args(), Console(width=110)
    warnings.simplefilter('ignore')
    logging.disable(logging.WARNING)
    mean_ap.Pool = ThreadPool  # it forks four processes for eight images
    kept = args.work_dir / f'cases-{args.num_images}'
    kept.mkdir(parents=True, exist_ok=True)
    rows, cases = [], all_cases()
    for case in track(cases, 'planted defects', console=console):
        file = kept / f'{digest(case)}.json'
        if args.only not in case.name:
            continue
        if args.fresh or not file.is_file():
            write_json(file, run_case(case, args.work_dir, args.num_images))
        rows.append(json.loads(file.read_text()))
        row = rows[-1]
        wrong = bool(row['flags']) == row['healthy']
        console.print(
            f'{"[red]WRONG[/]" if wrong else "ok"} {row["case"]}: {row["flags"]}'
        )
    if args.only:
        return
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / 'planted_defects.json', rows)
    with whole_file(args.out / 'planted_defects.md') as partial:
        partial.write_text(to_markdown(rows, args.num_images), encoding='utf-8')
    console.print(f'{args.out / "planted_defects.md"} is written')


if __name__ == '__main__':
    main()
