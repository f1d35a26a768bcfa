"""A robust evaluation on one rank and on two: equal results, and the time of each.

Each runs as a process group of its own (gloo on a CPU), one thread to a rank.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from timing import Machine, report

ROOT = Path(__file__).parents[2]
BESIDE = Path(__file__).parent
# What may differ: seconds, memory, and where it was written.
TIMED = ('cost', 'device', 'config', 'gallery')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--ranks', type=int, nargs='+', default=[1, 2])
    parser.add_argument('--indices', type=int, default=32, help='first N images')
    parser.add_argument('--steps', type=int, default=10)
    parser.add_argument('--out', type=Path, help='JSON file to write')
    parser.add_argument('--cfg-options', nargs='+', default=[])
    return parser.parse_args()


def evaluate(args: argparse.Namespace, ranks: int, folder: Path) -> tuple[float, dict]:
    """Seconds and report of an evaluation on so many ranks."""
    out = folder / f'{ranks}.json'
    flags = {
        '--launcher': 'pytorch',
        '--attack': 'pgd',
        '--eps': '8',
        '--steps': args.steps,
        '--indices': args.indices,
        '--work-dir': folder / f'{ranks}',
        '--out': out,
    }
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
    on_cpu = [] if torch.cuda.is_available() else [str(BESIDE / 'cpu_rank.py')]
    tool = str(ROOT / 'tools' / 'test.py')
    command += [f'--nproc_per_node={ranks}', *on_cpu, tool]
    command += [args.config, args.checkpoint]
    command += [str(word) for pair in flags.items() for word in pair]
    gloo = [] if torch.cuda.is_available() else ['env_cfg.dist_cfg.backend=gloo']
    options = [*gloo, *args.cfg_options]
    start = time.perf_counter()
    run = subprocess.run(
        [*command, *(['--cfg-options'] * bool(options)), *options],
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'MASTER_PORT': '0'},
        capture_output=True,
        text=True,
    )
    if run.returncode:
        sys.exit(f'ranks.py: {ranks} ranks failed:\n{run.stderr[-6000:]}')
    return time.perf_counter() - start, json.loads(out.read_text())


def numbers(results: dict) -> list[dict]:
    """Rows without what depends on the clock."""
    return [
        {key: value for key, value in row.items() if key not in TIMED}
        for row in results['results']
    ]


def main() -> None:
    args = parse_args()
    machine, reports = Machine.here(), {}
    with tempfile.TemporaryDirectory() as folder:
        for ranks in args.ranks:
            reports[ranks] = evaluate(args, ranks, Path(folder))
    (alone, first), *_ = reports.values()
    rows = []
    for ranks, (seconds, results) in reports.items():
        row = {'ranks': str(ranks), 'seconds': f'{seconds:.0f}'}
        row['times faster'] = f'{alone / seconds:.2f}'
        row['same rows'] = 'yes' if numbers(results) == numbers(first) else 'no'
        rows.append(row)
    title = f'{Path(args.config).stem}, pgd-{args.steps}, {args.indices} images'
    raw = {'seconds': {ranks: seconds for ranks, (seconds, _) in reports.items()}}
    report(title, rows, machine, raw, args.out)


if __name__ == '__main__':
    main()
