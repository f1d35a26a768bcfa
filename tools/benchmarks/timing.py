"""How the benchmarks measure: in turns, on a machine that is described beside it.

What is compared runs A B A B, so that whatever else the machine does befalls all of it
alike; tables give the median and the range. Two numbers of the machine itself, measured
before, say how far from its limits a result is.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from mmdiff.utils.files import whole_file
from mmdiff.version import __version__


@dataclass
class Timing:
    """Seconds of one contender.

    Example:
        >>> Timing([3.0, 1.0, 2.0]).median
        2.0
    """

    seconds: list[float]

    @property
    def median(self) -> float:
        return median(self.seconds)

    def __str__(self) -> str:
        return f'{self.median:.3g} ({min(self.seconds):.3g} to {max(self.seconds):.3g})'


def in_turns(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    now: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time each contender once a round, after a round that does not count.

    Args:
        contenders: Functions by name.
        rounds: Rounds that count.
        now: Seconds of a clock.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task('timing', total=(rounds + 1) * len(contenders))
        for number in range(rounds + 1):
            for name, run in contenders.items():
                wait()
                start = now()
                run()
                wait()
                if number:
                    seconds[name].append(now() - start)
                progress.advance(task)
    return {name: Timing(values) for name, values in seconds.items()}


def clock() -> Callable[[], float]:
    """Clock for work that never waits: of one thread of a CPU, that of the process."""
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return time.process_time if alone else time.perf_counter


def wait() -> None:
    """Wait for the accelerator, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def count_flops(run: Callable[[], object]) -> int:
    """Floating-point operations of matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@dataclass
class Machine:
    """What numbers were measured on.

    Args:
        processor: Name of the card, or the processor.
        threads: Threads of one operation.
        versions: Of Python and packages.
        gflops: Of a product of matrices, 1e9 a second: what can be reached.
        gigabytes: Copied, 1e9 bytes a second, read and written.
        load: Average load of the last minute before the benchmark.
    """

    processor: str
    threads: int
    versions: dict[str, str]
    gflops: float
    gigabytes: float
    load: float

    @classmethod
    def here(cls) -> Machine:
        """Describe and measure this one."""
        load = os.getloadavg()[0]
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
        a = torch.rand(2048, 2048, device=device)
        big = torch.rand(2**25, device=device)  # 128 MiB: in no cache
        speed = in_turns({'product': lambda: a @ a, 'copy': big.clone}, 5)
        name = torch.cuda.get_device_name() if device == 'cuda' else processor_name()
        versions = {
            'python': platform.python_version(),
            'torch': torch.__version__,
            'mmdiff': __version__,
        }
        return cls(
            name,
            torch.get_num_threads(),
            versions,
            2 * len(a) ** 3 / min(speed['product'].seconds) / 1e9,
            2 * big.nbytes / min(speed['copy'].seconds) / 1e9,
            load,
        )

    def __str__(self) -> str:
        return (
            f'{self.processor}, {self.threads} threads, torch '
            f'{self.versions["torch"]}; {self.gflops:.0f} GFLOP/s in a product of '
            f'matrices, {self.gigabytes:.1f} GB/s copied; load {self.load:.1f} before'
        )


def processor_name() -> str:
    """Name of the processor, as the system tells it."""
    info = Path('/proc/cpuinfo')
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith('model name'):
            return line.partition(':')[2].strip()
    return platform.processor() or platform.machine()


def added_memory(run: Callable[[], object]) -> float:
    """What a call adds to the memory in use at its peak, in MiB.

    On a CPU by what Linux notes of this process, so that a call is measured best in a
    process that has not run before.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path('/proc/self/clear_refs').write_text('5')  # forgets the peak of imports
    before = status_of('VmRSS')
    run()
    return (status_of('VmHWM') - before) / 2**10


def status_of(name: str) -> int:
    """A number of this process, in KiB, as Linux tells it."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(f'{name}:'):
            return int(line.split()[1])
    raise OSError(f'/proc/self/status has no {name}.')


def report(
    title: str,
    rows: list[dict[str, str]],
    machine: Machine,
    raw: dict,
    out: Path | None,
) -> None:
    """Print a table, and write all that was measured as JSON if wanted."""
    table = Table(*rows[0], title=title, caption=str(machine))
    for row in rows:
        table.add_row(*row.values())
    Console(width=100).print(table)
    if out is not None:
        text = {'title': title, 'machine': asdict(machine), 'rows': rows, **raw}
        with whole_file(out) as partial:
            partial.write_text(json.dumps(text, indent=1) + '\n', encoding='utf-8')
