"""Runs over the test images, kept on disk batch by batch."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import barrier, get_dist_info
from mmengine.runner import Runner
from mmengine.runner.amp import autocast

from mmdiff.attacks import Attack, AttackStats, GradientBlocked, Oracle
from mmdiff.attacks.probes import look_at_returned
from mmdiff.evaluation.record import VERSION, RunRecord
from mmdiff.evaluation.scoring import Scorer
from mmdiff.evaluation.worst_case import worst_run
from mmdiff.utils.digests import SHORT, digest_file, digest_json, digest_tensors
from mmdiff.utils.modules import device_of, unwrap
from mmdiff.utils.seeding import mix_seed

from .image_set import ImageSet
from .robust_plan import Run


@dataclass
class Progress:
    """How much of all runs is done, for the ETA in the log.

    Args:
        runs: Runs to come.
        left: Work that is left to this rank, in passes.
        done: Work done by this process.
        seconds: Time that this took.
    """

    runs: list[Run]
    left: float
    done: float = 0.0
    seconds: float = 0.0

    def count(self, work: float, seconds: float) -> None:
        """Note that some work is done."""
        self.left -= work
        self.done += work
        self.seconds += seconds

    @property
    def eta(self) -> timedelta:
        """Time that is left."""
        return timedelta(seconds=round(self.left * self.seconds / self.done))


@dataclass
class Batch:
    """A batch of a run, and the file that keeps what it found.

    Args:
        span: Numbers of its images.
        file: The file.
        name: What the file must say that it is of.
    """

    span: range
    file: Path
    name: str

    def load(self) -> RunRecord | None:
        """Read the file; ``None`` if it is damaged or not there."""
        return RunRecord.load(self.file, len(self.span), self.name)


class CachedRuns:
    """Do runs over the images of a test set, each batch once and for all.

    Batches are of consecutive images of the dataset, whatever the number of ranks:
    rank ``r`` of ``n`` takes every ``n``-th, and all ranks read all results.

    Args:
        runner: Runner with model and ``work_dir``.
        images: Images of the test set.
        oracle: Oracle of the model.
        scorer: Scorer of the task.
        fp16: Autocast the predictions.
        interval: Batches between two lines of progress.
    """

    def __init__(
        self,
        runner: Runner,
        images: ImageSet,
        oracle: Oracle,
        scorer: Scorer,
        fp16: bool = False,
        interval: int = 10,
    ) -> None:
        self.runner = runner
        self.images = images
        self.oracle = oracle
        self.scorer = scorer
        self.fp16 = fp16
        self.interval = interval
        self.rank, self.world = get_dist_info()
        self.progress = Progress([], 0.0)

    def open(self, fresh: bool) -> None:
        """Open the state folder of this model and dataset.

        Args:
            fresh: Delete what is in it.
        """
        digests = self.images.digests()
        self._digests = digests or [''] * len(self.images)
        root = Path(self.runner.work_dir) / 'robust_state'
        self.folder = root / digest_json(self._identity(digests is not None))
        if self.rank == 0:
            if fresh:
                shutil.rmtree(self.folder, ignore_errors=True)
            elif not self.folder.exists() and root.is_dir() and any(root.iterdir()):
                self.runner.logger.info(
                    f'{root} holds runs of another model, weights or data: they stay '
                    f'as they are, and this one begins anew in {self.folder.name}.'
                )
            self.folder.mkdir(parents=True, exist_ok=True)
        barrier()

    def _identity(self, batches_know_images: bool) -> list:
        """All that results depend on, beside the attack and images of a batch."""
        model, cfg = unwrap(self.runner.model), self.runner.cfg
        data = cfg.test_dataloader.dataset.to_dict()
        if batches_know_images:  # then a run on more of them goes on from here
            data.pop('indices', None)
        weights = (*model.named_parameters(), *model.named_buffers())
        described = [
            (f'{k} {tuple(v.shape)} {v.dtype}', v.detach()) for k, v in weights
        ]
        return [
            VERSION,
            self.images.batch_size,
            self.fp16,
            self.scorer.settings(),
            cfg.model.to_dict(),
            data,
            digest_tensors(described).hex()[:SHORT],
            device_of(model).type,
        ]

    def image_names(self, span: range) -> list[str]:
        """Names of some images' annotations; empty if the dataset tells none."""
        return self._digests[span.start : span.stop]

    def expect(self, runs: Sequence[Run]) -> None:
        """Register the runs to come, for the ETA in the log."""
        work = sum(run.num_images * run.weight for run in runs)
        self.progress = Progress(list(runs), work / self.world)

    def run(
        self, run: Run, before: Sequence[RunRecord] = (), skip: bool = False
    ) -> RunRecord:
        """Do what is not there yet of a run, and read it all.

        Args:
            run: The run.
            before: Records of the clean run and of earlier attacks within the budget.
            skip: Images that one of these attacks brought to score 0 keep its
                predictions. Those that the clean run misses are attacked all the same:
                false alarms on them count over the set.

        Raises:
            FileNotFoundError: If ranks do not share ``work_dir``.
            ValueError: If a file there is of another run.
        """
        worst = worst_run(before[1:]) if skip and before[1:] else None
        fooled = np.zeros(run.num_images, bool)
        if worst is not None:
            fooled = worst.score == 0
        batches = self._batches(run, fooled)
        mine = batches[self.rank :: self.world]
        todo = [batch for batch in mine if self._misses(batch, run)]
        loaded = self.images.load([batch.span for batch in todo])
        for number, (batch, data) in enumerate(zip(todo, loaded), 1):
            start = time.perf_counter()
            record = self._run_batch(run, batch.span, data, fooled, before)
            record.seconds = time.perf_counter() - start
            record.save(batch.file, batch.name)
            self.progress.count(run.weight * len(batch.span), record.seconds)
            if number % self.interval == 0 or number == len(todo):
                self._log(run, batch)
        barrier()
        record = RunRecord.join(list(self._read_all(batches)))
        for i in np.flatnonzero(fooled):  # files have what was found without an attack
            record.predictions[i], record.score[i] = worst.predictions[i], 0.0
        return record

    def _batches(self, run: Run, fooled: np.ndarray) -> list[Batch]:
        """Batches of a run; a file's name says which images, and which are skipped."""
        parts: list = [type(run.attack).__name__]
        if run.attack is not None:
            parts.append(describe(run.attack))
        folder = self.folder / f'{run.name.replace(" ", "_")}-{digest_json(parts)}'
        folder.mkdir(parents=True, exist_ok=True)  # rank 0 made it, if they share it
        batches = []
        for span in self.images.spans(run.num_images):
            images = self._digests[span.start : span.stop]
            of = digest_json([images, fooled[span].tolist()])
            file = folder / f'{span.start:06d}-{of}.safetensors'
            name = f'{self.folder.name}/{folder.name}/{file.stem}'
            batches.append(Batch(span, file, name))
        return batches

    def _misses(self, batch: Batch, run: Run) -> bool:
        """Whether a batch is to be done; else its work is taken off what is left."""
        if batch.load() is None:
            if batch.file.exists():
                self.runner.logger.warning(f'{batch.file} is damaged: done anew.')
            return True
        self.progress.left -= run.weight * len(batch.span)
        return False

    def _log(self, run: Run, batch: Batch) -> None:
        runs = self.progress.runs
        self.runner.logger.info(
            f'run {runs.index(run) + 1} of {len(runs)} ({run.name}): image '
            f'{batch.span.stop} of {run.num_images}, ETA {self.progress.eta}'
        )

    def _read_all(self, batches: Sequence[Batch]) -> Iterator[RunRecord]:
        for batch in batches:
            record = batch.load()
            if record is None:
                raise FileNotFoundError(
                    f'Rank {self.rank} does not see {batch.file}; all ranks must share '
                    'work_dir.'
                )
            yield record

    @torch.no_grad()
    def _run_batch(
        self,
        run: Run,
        span: range,
        data: dict,
        fooled: np.ndarray,
        before: Sequence[RunRecord],
    ) -> RunRecord:
        """Attack and predict one batch."""
        for i, sample in zip(span, data['data_samples']):
            self.images.remember(i, sample)
        skip = fooled[span].tolist()
        stats, losses, blocked = AttackStats(), [math.nan] * len(span), 0
        with peak_memory() as peak:
            if run.attack is not None and not all(skip):
                try:
                    result = run.attack.run(self.oracle, data, skip)
                    look_at_returned(self.oracle, run.attack, data, result)
                    data = {**data, 'inputs': result.inputs}
                    losses, stats = result.losses, result.stats
                except GradientBlocked:
                    blocked = len(span) - sum(skip)
            if blocked or all(skip):
                predictions = [before[0].predictions[i] for i in span]
            else:
                predictions = self._predict(run, span, data)
        scores = [self.scorer.image_score(i, p) for i, p in zip(span, predictions)]
        return RunRecord(
            predictions,
            np.array(losses, float),
            np.array(scores, float),
            stats,
            peak_mem=peak[0],
            blocked=blocked,
        )

    def _predict(self, run: Run, span: range, data: dict) -> list[dict]:
        # What the model draws is another noise in every run, and the same one when the
        # run is resumed.
        with torch.random.fork_rng(), autocast(enabled=self.fp16):
            torch.manual_seed(mix_seed(run.name, span.start))
            outputs = self.runner.model.test_step(data)
        return [self.scorer.read(output) for output in outputs]


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Give a list that holds, at the end, the most memory held, in bytes.

    On a CPU it is that of the process so far: there is none of the block alone.
    """
    peak = [0]
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    yield peak
    if torch.cuda.is_available():
        peak[0] = torch.cuda.max_memory_allocated()
    else:
        peak[0] = getrusage(RUSAGE_SELF).ru_maxrss * 1024


def describe(attack: Attack) -> dict[str, Any]:
    """All that an attack's images depend on, beside the model, as JSON says it."""
    settings = {field.name: getattr(attack, field.name) for field in fields(attack)}
    source = settings.get('source')
    if source is not None:
        settings['source'] = str(source)
        config, weights = Path(source.config), Path(source.checkpoint)
        if config.is_file() and weights.is_file():  # else the attack says so
            model = Config.fromfile(config).model.to_dict()
            settings['model'] = [model, digest_file(weights)]
    return settings
