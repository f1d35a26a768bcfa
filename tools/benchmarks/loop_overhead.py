"""What a robust evaluation takes beside the attacks: records, checks, metrics.

Runs ``RobustTestLoop`` once and adds up the seconds of its parts: attacks of rows,
attacks behind checks (controls), probes, predictions, and all else.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from mmengine.config import Config, DictAction
from mmengine.runner import Runner
from timing import Machine, clock, report

from mmdiff.attacks import Attack
from mmdiff.engine.loops import robust_test_loop
from mmdiff.engine.loops.cached_runs import CachedRuns
from mmdiff.engine.loops.predictor import Predictor
from mmdiff.engine.presets import attack_configs


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--attack', default='pgd')
    parser.add_argument('--steps', type=int, default=20)
    parser.add_argument('--eps', default='8')
    parser.add_argument('--indices', type=int, default=32, help='first N images')
    parser.add_argument('--out', type=Path, help='JSON file to write')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    return parser.parse_args()


class Stopwatch:
    """Adds up the seconds inside functions by a name; inner ones count for theirs.

    Args:
        now: Seconds of a clock.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.seconds: dict[str, float] = {}
        self._open: list[float] = []

    def watch(self, function: Callable, name: Callable[..., str]) -> Callable:
        """Wrap a function; ``name`` is called with its arguments."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = self._now()
            self._open.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                seconds = self._now() - start
                inner, key = self._open.pop(), name(*args, **kwargs)
                self.seconds[key] = self.seconds.get(key, 0.0) + seconds - inner
                if self._open:
                    self._open[-1] += seconds

        return timed


def called(name: str) -> Callable[..., str]:
    """A name that does not depend on arguments."""
    return lambda *args, **kwargs: name


def evaluate(args: argparse.Namespace, folder: str) -> dict[str, float]:
    """Run the loop; return the seconds of its parts."""
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    cfg.test_cfg = {
        'type': 'mmdiff.RobustTestLoop',
        'attacks': attack_configs(args.attack, args.eps, args.steps),
        'indices': args.indices,
    }
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.load_from, cfg.work_dir = args.checkpoint, folder
    runner = Runner.from_cfg(cfg)
    # One step of each attack is tried before all runs.
    watch, running = Stopwatch(clock()), ['attacks of checks']

    def run(runs: CachedRuns, plan: Any, *rest: Any) -> Any:
        running.append('attacks of rows' if plan.of_row else 'attacks of checks')
        try:
            return whole_run(runs, plan, *rest)
        finally:
            running.pop()

    whole_run, attack = CachedRuns.run, Attack.run
    predict, probe = Predictor._predict, robust_test_loop.ask_once
    with (
        patch.object(CachedRuns, 'run', run),
        patch.object(Attack, 'run', watch.watch(attack, lambda *a, **k: running[-1])),
        patch.object(
            Predictor, '_predict', watch.watch(predict, called('predictions'))
        ),
        patch.object(
            robust_test_loop, 'ask_once', watch.watch(probe, called('probes'))
        ),
    ):
        watch.watch(runner.test, called('all else'))()
    return watch.seconds


def main() -> None:
    args = parse_args()
    machine = Machine.here()
    with tempfile.TemporaryDirectory() as folder:
        seconds = evaluate(args, folder)
    total = sum(seconds.values())
    rows = [
        {'part': name, 'seconds': f'{value:.1f}', 'share': f'{value / total:.1%}'}
        for name, value in sorted(seconds.items(), key=lambda pair: -pair[1])
    ]
    title = (
        f'{Path(args.config).stem}, {args.attack}-{args.steps}, {args.indices} images'
    )
    report(title, rows, machine, {'seconds': seconds}, args.out)


if __name__ == '__main__':
    main()
