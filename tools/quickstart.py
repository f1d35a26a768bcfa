"""Train the same detector twice, on the frozen shipped prior and from scratch, under
the same budget; evaluate both clean, under PGD and under DAG; show one table.
"""

import argparse
import json
import time
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mmdiff import config_path
from mmdiff.datasets.toy_voc import make_toy_voc
from mmdiff.evaluation import draw_curve, draw_grid, main_metric

MODELS = {
    'frozen prior': 'detection/faster-rcnn_toy-unet_dfpn_toy-voc.py',
    'from scratch': 'detection/faster-rcnn_toy-unet-scratch_dfpn_toy-voc.py',
}
# DAG within PGD's budget and in fewer, larger steps than published (150 of 0.5).
ATTACKS = [
    dict(type='mmdiff.PGD', eps=[2, 4, 8], steps=10),
    dict(type='mmdiff.DAG', eps=8, steps=20, gamma=4, max_proposals=500),
]


def train(name: str, args: argparse.Namespace) -> Runner:
    """Train and test one model; its runner's ``test_loop.report`` has the results."""
    cfg = Config.fromfile(config_path(MODELS[name]))
    folder = 'train' if args.max_epochs is None else f'train-{args.max_epochs}'
    cfg.work_dir = str(args.work_dir / name.replace(' ', '-') / folder)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = f'{args.data}/'
    cfg.test_dataloader.dataset.indices = args.num_images
    if args.max_epochs is not None:
        cfg.merge_from_dict(
            {
                'train_cfg.max_epochs': args.max_epochs,
                'param_scheduler.1.end': args.max_epochs,
                'param_scheduler.1.T_max': args.max_epochs,
            }
        )
    cfg.test_cfg = dict(type='mmdiff.RobustTestLoop', attacks=ATTACKS, name=name)
    cfg.test_cfg.sanity_images = 8
    runner = Runner.from_cfg(cfg)
    start = time.perf_counter()
    runner.train()
    runner.test_loop.train_seconds = round(time.perf_counter() - start, 1)
    runner.test()
    return runner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--work-dir', type=Path, default='work_dirs/quickstart')
    parser.add_argument('--data', default='data/toy_voc', help='made if not there')
    parser.add_argument('--num-images', type=int, default=32, help='images to attack')
    parser.add_argument('--max-epochs', type=int, help='instead of the configs')
    args = parser.parse_args()
    console = Console(width=110)
    begin = time.perf_counter()
    try:
        make_toy_voc(args.data, progress=lambda n: track(n, 'drawing the demo set'))
    except FileExistsError as error:
        parser.error(f'{error} (--data)')

    runners = {name: train(name, args) for name in MODELS}
    loops = {name: runner.test_loop for name, runner in runners.items()}
    reports = {name: loop.report for name, loop in loops.items()}
    results = {name: report['results'] for name, report in reports.items()}
    for name, report in reports.items():
        place = loops[name].out.parent.resolve()
        folder = place.relative_to(args.work_dir.resolve())
        for picture in report['gallery']:  # seen from the file of both models
            picture['file'] = f'{folder}/{picture["file"]}'
    args.work_dir.mkdir(parents=True, exist_ok=True)
    (args.work_dir / 'robustness.json').write_text(json.dumps(reports, indent=1) + '\n')
    draw_curve(args.work_dir / 'curve.png', results)
    strongest = next(iter(loops.values())).attacks[2]  # PGD at eps 8
    shown = range(min(3, args.num_images))
    draw_grid(args.work_dir / 'grid.png', runners, strongest, shown)

    table = Table(
        title=f'mAP at IoU 0.5 on {args.num_images} images (Linf, of 255; adaptive)'
    )
    columns = ['model', 'clean', 'worst 8', 'PGD 2', 'PGD 4', 'PGD 8', 'DAG 8']
    columns += ['M params', 'train s', 'attack s', 'gradients']
    for column in columns:
        table.add_column(column, justify='left' if column == 'model' else 'right')
    for name, entries in results.items():
        cost = [entry['cost'] for entry in entries[1:]]
        # The per-image worst, the last entry, leads.
        values = [main_metric(e) for e in (entries[0], entries[-1], *entries[1:-1])]
        cells = [f'{value:.3f}' for value in values]
        table.add_row(
            name,
            *cells,
            f'{reports[name]["cost"]["trainable_params"] / 1e6:.2f}',
            f'{reports[name]["cost"]["train_seconds"]:.0f}',
            f'{sum(c["seconds"] for c in cost):.0f}',
            str(sum(c['grad_evals'] for c in cost)),
        )
        kept = [f'{value / max(values[0], 1e-9):.0%}' for value in values]
        table.add_row('  share kept', *kept, '', '', '', '', style='dim')
    console.print(table)
    for name, report in reports.items():
        for reason in report['reasons']:
            console.print(f'[bold red]unreliable ({name}):[/] {reason}')
    console.print(
        f'{time.perf_counter() - begin:.0f} s; robustness.json, curve.png and grid.png '
        f'are in {args.work_dir}'
    )


if __name__ == '__main__':
    main()
