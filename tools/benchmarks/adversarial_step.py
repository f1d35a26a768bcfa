"""Time of a training step: standard, adversarial, aligned with a prior.

Each config trains some steps on its own data, with one thread. Seconds are those of the
processor, so that other work on the machine does not count; the first step is left out.
"""

import argparse
import time
from pathlib import Path
from statistics import median

import torch
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner


def make_runner(path: Path, steps: int, checkpoint: str | None) -> Runner:
    """The Runner of a config on so many batches, after a first one, without workers."""
    cfg = Config.fromfile(path)
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    images = cfg.train_dataloader.batch_size * (steps + 1)
    cfg.train_dataloader.dataset.indices = images
    cfg.train_cfg.max_epochs = 1
    cfg.param_scheduler = None
    cfg.work_dir = f'work_dirs/adversarial_step/{path.stem}'
    cfg.load_from = checkpoint
    cfg.log_level = 'ERROR'
    for key in ('val', 'test'):
        for part in ('dataloader', 'evaluator', 'cfg'):
            cfg.pop(f'{key}_{part}', None)
    return Runner.from_cfg(cfg)


class Stopwatch(Hook):
    """Notes seconds of the processor for each step."""

    def __init__(self):
        self.seconds = []

    def before_train_iter(self, *args, **kwargs):
        self.begun = time.process_time()

    def after_train_iter(self, *args, **kwargs):
        self.seconds.append(time.process_time() - self.begun)


def measure(path: Path, steps: int, checkpoint: str | None) -> list[float]:
    """Seconds of some steps of a config."""
    runner, watch = make_runner(path, steps, checkpoint), Stopwatch()
    runner.register_hook(watch, 'VERY_LOW')
    runner.train()
    return watch.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('configs', type=Path, nargs='+', metavar='CONFIG')
    parser.add_argument('--steps', type=int, default=4, help='after the first (4)')
    parser.add_argument('--checkpoint', help='weights to start from')
    args = parser.parse_args()
    torch.set_num_threads(1)
    register_all_modules(True)
    print('| config | CPU s a step (median) | least | most |\n|---|---|---|---|')
    for path in args.configs:
        seconds = measure(path, args.steps, args.checkpoint)[1:]
        numbers = (median(seconds), min(seconds), max(seconds))
        print(f'| {path.stem} | ' + ' | '.join(f'{n:.2f}' for n in numbers) + ' |')


if __name__ == '__main__':
    main()
