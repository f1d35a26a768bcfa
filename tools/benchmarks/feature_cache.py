"""Epochs of training with and without the feature cache.

The same training twice: every epoch computes the features of the frozen prior, and they
are kept (:class:`mmdiff.engine.hooks.FeatureCacheHook`). Seconds of each epoch, how
often the U-Net ran, and how far the loss curves are apart; features are kept as
bfloat16 unless told otherwise.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config, DictAction
from mmengine.hooks import Hook
from mmengine.runner import Runner
from prior_cost import PRIORS
from timing import Machine, report

from mmdiff.models import DiffusionUNet
from mmdiff.utils.modules import unwrap


@dataclass
class Epochs(Hook):
    """Notes seconds, losses, and images that the U-Net saw, of each epoch."""

    seconds: list[float] = field(default_factory=list)
    losses: list[list[float]] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    priority = 'LOWEST'

    def before_train(self, runner: Runner) -> None:
        backbone = unwrap(runner.model).backbone
        compute = backbone._compute

        def counted(x: Any) -> Any:
            self.images[-1] += len(x)
            return compute(x)

        backbone._compute = counted

    def before_train_epoch(self, runner: Runner) -> None:
        self.images.append(0)
        self.losses.append([])
        self._start = time.perf_counter()

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self.losses[-1].append(kwargs['outputs']['loss'].item())

    def after_train_epoch(self, runner: Runner) -> None:
        self.seconds.append(time.perf_counter() - self._start)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config')
    parser.add_argument('--images', type=int, default=64, help='first N of training')
    parser.add_argument('--epochs', type=int, default=3)
    parser.add_argument(
        '--prior', choices=PRIORS, help='random weights of that size in its place'
    )
    parser.add_argument('--precision', choices=('bf16', 'fp32'), default='bf16')
    parser.add_argument('--out', type=Path, help='JSON file to write')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    return parser.parse_args()


def train(args: argparse.Namespace, hooks: Sequence[dict], folder: Path) -> Epochs:
    """Train with further hooks."""
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    if args.prior:
        cfg.model.backbone.model = PRIORS[args.prior][0]
    cfg.train_dataloader.dataset.indices = args.images
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.train_cfg.update(max_epochs=args.epochs, val_interval=10**6)
    cfg.default_hooks.checkpoint = None
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.work_dir, cfg.log_level = str(folder), 'ERROR'
    cfg.randomness = {'seed': 0}
    cfg.custom_hooks = [*cfg.get('custom_hooks', []), *hooks]
    runner = Runner.from_cfg(cfg)
    backbone = unwrap(runner.model).backbone
    if not isinstance(backbone, DiffusionUNet):
        raise SystemExit(f'feature_cache.py: {args.config} has no DiffusionUNet.')
    epochs = Epochs()
    runner.register_hook(epochs)
    runner.train()
    return epochs


def main() -> None:
    args = parse_args()
    machine = Machine.here()
    with tempfile.TemporaryDirectory() as folder:
        work, kept = Path(folder) / 'work', Path(folder) / 'kept'
        hook = {
            'type': 'mmdiff.FeatureCacheHook',
            'folder': str(kept),
            'precision': args.precision,
        }
        plain = train(args, [], work / 'plain')
        cached = train(args, [hook], work / 'cached')
        size = sum(file.stat().st_size for file in kept.glob('*/*'))
    rows = []
    for number in range(args.epochs):
        a, b = plain.seconds[number], cached.seconds[number]
        losses = np.array(plain.losses[number]), np.array(cached.losses[number])
        rows.append(
            {
                'epoch': str(number + 1),
                's': f'{a:.1f}',
                's, kept': f'{b:.1f}',
                'times faster': f'{a / b:.2f}',
                'U-Net ran on': f'{plain.images[number]}',
                'kept': f'{cached.images[number]}',
                'loss': f'{losses[0].mean():.4f}',
                'loss, kept': f'{losses[1].mean():.4f}',
            }
        )
    title = f'{Path(args.config).stem}, {args.images} images, {size / 1e6:.0f} MB kept'
    raw = {'plain': vars(plain), 'cached': vars(cached)}
    for epochs in raw.values():
        epochs.pop('_start')
    report(title, rows, machine, raw, args.out)


if __name__ == '__main__':
    main()
