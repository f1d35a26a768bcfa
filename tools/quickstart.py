"""Train the same model twice, on the frozen shipped prior and from scratch, under the
same budget; evaluate both clean and under attacks; show one table and page.

A detector is attacked by PGD and DAG, a classifier by PGD and torchattacks' APGD-T.

Each model has a process of its own, so two cores take half the time of one. Seeds and
numbers are those of one after the other.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen

from mmengine.config import Config
from mmengine.runner import Runner, find_latest_checkpoint
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from mmdiff import config_path
from mmdiff.datasets.toy_classes import make_toy_classes
from mmdiff.datasets.toy_shapes import make_toy_voc
from mmdiff.engine.gallery import try_to_draw
from mmdiff.evaluation.report import Page, build_page, read_reports, render
from mmdiff.evaluation.tables import comparison_table
from mmdiff.registry import ATTACKS
from mmdiff.utils.files import whole_file

DETECTION = 'detection'


@dataclass(frozen=True)
class Task:
    """What the quick start does for one task.

    Args:
        models: Config of each model, by its name.
        attacks: Attacks on each; the first one is drawn, at its largest budget.
        make_set: Makes the data set.
        data: Folder of it.
        work_dir: Folder of the results.
        num_images: Images to attack.
    """

    models: Mapping[str, str]
    attacks: Sequence[Mapping]
    make_set: Callable
    data: str
    work_dir: str
    num_images: int


TASKS = {
    DETECTION: Task(
        models={
            'frozen prior': 'detection/faster-rcnn_toy-unet_dfpn_1xb4-2e_toy-voc.py',
            'from scratch': (
                'detection/faster-rcnn_toy-unet-scratch_dfpn_1xb4-2e_toy-voc.py'
            ),
        },
        # DAG within PGD's budget and in fewer, larger steps than published (150 of
        # 0.5).
        attacks=[
            {'type': 'mmdiff.PGD', 'eps': [2, 4, 8], 'steps': 10},
            {
                'type': 'mmdiff.DAG',
                'eps': 8,
                'steps': 20,
                'gamma': 4,
                'max_proposals': 500,
            },
        ],
        make_set=make_toy_voc,
        data='data/toy_voc',
        work_dir='work_dirs/quickstart',
        num_images=32,
    ),
    'classification': Task(
        models={
            'frozen prior': (
                'classification/toy-unet_attention-head_1xb32-5e_toy-classes.py'
            ),
            'from scratch': (
                'classification/toy-unet-scratch_attention-head_1xb32-5e_toy-classes.py'
            ),
        },
        attacks=[
            {'type': 'mmdiff.PGD', 'eps': [2, 4, 8], 'steps': 10},
            {'type': 'mmdiff.TorchAttack', 'name': 'APGDT', 'eps': 8, 'steps': 10},
        ],
        make_set=make_toy_classes,
        data='data/toy_classes',
        work_dir='work_dirs/quickstart-classification',
        num_images=96,
    ),
}


def make_config(name: str, args: argparse.Namespace) -> Config:
    """Config of one model, on the demo set and with the attacks."""
    task = TASKS[args.task]
    cfg = Config.fromfile(config_path(task.models[name]))
    folder = 'train' if args.max_epochs is None else f'train-{args.max_epochs}'
    cfg.work_dir = str(args.work_dir / name.replace(' ', '-') / folder)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = f'{args.data}/'
    cfg.test_dataloader.dataset.indices = args.num_images
    if args.max_epochs is not None:
        cfg.train_cfg.max_epochs = args.max_epochs
        # The last one, the cosine, ends with the training.
        cfg.param_scheduler[-1].update(end=args.max_epochs, T_max=args.max_epochs)
    cfg.test_cfg = {
        'type': 'mmdiff.RobustTestLoop',
        'attacks': task.attacks,
        'name': name,
        'out': str(args.work_dir / name.replace(' ', '-') / 'robustness.json'),
        'sanity_images': 8,
        'leave_out': True,  # what torchattacks has, where it is not installed
    }
    return cfg


def train_and_test(cfg: Config) -> None:
    """Train and test one model; results are in the file that the config names."""
    runner = Runner.from_cfg(cfg)
    start = time.perf_counter()
    runner.train()
    runner.test_loop.training_time.seconds = round(time.perf_counter() - start, 1)
    runner.test()


@dataclass
class Work:
    """A model that a process of its own trains and tests.

    Args:
        name: Name of the model, one of the task's.
        log: File for all that the process prints.
        console: Where lines go if it is no terminal.
    """

    name: str
    log: Path
    console: Console
    line: str = field(default='waits for a core', init=False)

    def run(self) -> None:
        """Start this script anew for the one model, and wait.

        Raises:
            ChildProcessError: If that fails.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, *sys.orig_argv[1:], '--only', self.name]
        with (
            self.log.open('w', encoding='utf-8') as log,
            Popen(
                command, stdout=PIPE, stderr=STDOUT, text=True, errors='replace'
            ) as process,
        ):
            self.line = 'starts'
            for line in process.stdout:
                log.write(line)
                log.flush()
                _, told, text = line.partition(' - INFO - ')
                if told and text.strip():
                    self.tell(text.strip())
        if process.returncode:
            raise ChildProcessError(
                f'{self.name} was not trained and tested (exit code '
                f'{process.returncode}); the end of {self.log} says why. Start the '
                'quick start again after that.'
            )
        self.line = 'done'

    def tell(self, text: str) -> None:
        """Show what the process does now."""
        self.line = text
        if not self.console.is_terminal:
            self.console.print(f'{self.name}: {text}', markup=False, highlight=False)


def run_all(works: Sequence[Work], console: Console) -> None:
    """Do all works, as many at once as there are cores, and show what each does.

    Raises:
        ChildProcessError: If one fails; the others are done first.
    """

    def lines() -> Table:
        table = Table.grid(padding=(0, 2))
        for work in works:
            table.add_row(f'[bold]{work.name}', escape(work.line[:90]))
        return table

    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 2
    with (
        Live(get_renderable=lines, console=console, transient=True),
        ThreadPoolExecutor(min(cores, len(works))) as pool,
    ):
        running = [pool.submit(work.run) for work in works]
    for one in running:
        one.result()


def load(cfg: Config) -> Runner:
    """Load what was trained, to draw it."""
    cfg.load_from = find_latest_checkpoint(cfg.work_dir)
    runner = Runner.from_cfg(cfg)
    runner.load_or_resume()
    return runner


def draw(
    configs: dict[str, Config], path: Path, attack: Mapping, num_images: int
) -> bool:
    """Draw some images of all models; whether that worked."""
    runners = {name: load(cfg) for name, cfg in configs.items()}
    strongest = ATTACKS.build({**attack, 'eps': max(attack['eps'])})
    return try_to_draw(path, runners, strongest, range(min(3, num_images)))


def show(page: Page, console: Console) -> None:
    """Print the table, and what makes numbers unreliable."""
    console.print(comparison_table(page).to_rich())
    for model in page.models:
        for reason in model.reasons:
            name = escape(model.name)
            console.print(f'[bold red](!) unreliable ({name}):[/] {escape(reason)}')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('task', nargs='?', choices=TASKS, default=DETECTION)
    parser.add_argument('--work-dir', type=Path, help='instead of one in work_dirs')
    parser.add_argument('--data', help="instead of the task's; made if not there")
    parser.add_argument('--num-images', type=int, help='images to attack')
    parser.add_argument('--max-epochs', type=int, help='instead of the configs')
    parser.add_argument('--only', help=argparse.SUPPRESS)
    args = parser.parse_args()
    task = TASKS[args.task]
    args.work_dir = args.work_dir or Path(task.work_dir)
    args.data = args.data or task.data
    args.num_images = task.num_images if args.num_images is None else args.num_images
    if args.only:
        return args
    try:
        task.make_set(args.data, progress=lambda n: track(n, 'drawing the demo set'))
    except FileExistsError as error:
        parser.error(f'{error} (--data)')
    return args


def main() -> None:
    begin = time.perf_counter()
    args, console = parse_args(), Console(width=110)
    task = TASKS[args.task]
    if args.only:
        train_and_test(make_config(args.only, args))
        return
    configs = {name: make_config(name, args) for name in task.models}
    outs = [Path(cfg.test_cfg.out) for cfg in configs.values()]
    works = [
        Work(name, out.with_name('log.txt'), console)
        for name, out in zip(configs, outs)
    ]
    try:
        run_all(works, console)
    except ChildProcessError as error:
        sys.exit(str(error))
    page = build_page(read_reports(outs))
    with whole_file(args.work_dir / 'report.html') as partial:
        partial.write_text(render(page), encoding='utf-8')
    grid = args.work_dir / 'grid.png'
    drawn = draw(configs, grid, task.attacks[0], args.num_images)
    show(page, console)
    console.print(
        f'{time.perf_counter() - begin:.0f} s; report.html '
        f'{"and grid.png are" if drawn else "is"} in {args.work_dir}, with a '
        'robustness.json in the folder of each model'
    )


if __name__ == '__main__':
    main()
