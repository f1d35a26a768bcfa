"""Train the same detector twice, on the frozen shipped prior and from scratch, under
the same budget; evaluate both clean, under PGD and under DAG; show one table and page.
"""

import argparse
import time
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from mmdiff import config_path
from mmdiff.datasets.toy_shapes import make_toy_voc
from mmdiff.engine.gallery import try_to_draw
from mmdiff.evaluation.report import Page, build_page, read_reports, render
from mmdiff.evaluation.tables import comparison_table
from mmdiff.utils.files import whole_file

MODELS = {
    'frozen prior': 'detection/faster-rcnn_toy-unet_dfpn_1xb4-2e_toy-voc.py',
    'from scratch': 'detection/faster-rcnn_toy-unet-scratch_dfpn_1xb4-2e_toy-voc.py',
}
# DAG within PGD's budget and in fewer, larger steps than published (150 of 0.5).
ATTACKS = [
    {'type': 'mmdiff.PGD', 'eps': [2, 4, 8], 'steps': 10},
    {'type': 'mmdiff.DAG', 'eps': 8, 'steps': 20, 'gamma': 4, 'max_proposals': 500},
]


def make_config(name: str, args: argparse.Namespace) -> Config:
    """Config of one model, on the demo set and with the attacks."""
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
    cfg.test_cfg = {
        'type': 'mmdiff.RobustTestLoop',
        'attacks': ATTACKS,
        'name': name,
        'out': str(args.work_dir / name.replace(' ', '-') / 'robustness.json'),
        'sanity_images': 8,
    }
    return cfg


def train_and_test(cfg: Config) -> Runner:
    """Train and test one model; its ``test_loop`` has written the results."""
    runner = Runner.from_cfg(cfg)
    start = time.perf_counter()
    runner.train()
    runner.test_loop.train_seconds = round(time.perf_counter() - start, 1)
    runner.test()
    return runner


def show(page: Page, console: Console) -> None:
    """Print the table, and what makes numbers unreliable."""
    console.print(comparison_table(page).to_rich())
    for model in page.models:
        for reason in model.reasons:
            name = escape(model.name)
            console.print(f'[bold red](!) unreliable ({name}):[/] {escape(reason)}')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/quickstart'))
    parser.add_argument('--data', default='data/toy_voc', help='made if not there')
    parser.add_argument('--num-images', type=int, default=32, help='images to attack')
    parser.add_argument('--max-epochs', type=int, help='instead of the configs')
    args = parser.parse_args()
    try:
        make_toy_voc(args.data, progress=lambda n: track(n, 'drawing the demo set'))
    except FileExistsError as error:
        parser.error(f'{error} (--data)')
    return args


def main() -> None:
    begin = time.perf_counter()
    args, console = parse_args(), Console(width=110)
    runners = {name: train_and_test(make_config(name, args)) for name in MODELS}
    loops = [runner.test_loop for runner in runners.values()]
    page = build_page(read_reports([loop.out for loop in loops]))
    with whole_file(args.work_dir / 'report.html') as partial:
        partial.write_text(render(page), encoding='utf-8')
    strongest = loops[0].attacks[2]  # PGD at eps 8
    shown = range(min(3, args.num_images))
    drawn = try_to_draw(args.work_dir / 'grid.png', runners, strongest, shown)
    show(page, console)
    console.print(
        f'{time.perf_counter() - begin:.0f} s; report.html '
        f'{"and grid.png are" if drawn else "is"} in {args.work_dir}, with a '
        'robustness.json in the folder of each model'
    )


if __name__ == '__main__':
    main()
