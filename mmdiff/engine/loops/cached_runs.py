"""Runs over the test images, kept on disk batch by batch."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import barrier, get_dist_info
from mmengine.runner import Runner

from mmdiff.attacks import Attack, AttackStats, GradientBlocked, Oracle, Universal
from mmdiff.attacks.objectives import BUILT, build_objective, inner_objective
from mmdiff.attacks.probes import attack_and_look
from mmdiff.evaluation.record import VERSION, RunRecord
from mmdiff.evaluation.scoring import Scorer
from mmdiff.evaluation.worst_case import worst_run
from mmdiff.utils.digests import (
    digest_code,
    digest_file,
    digest_json,
    digest_model,
)
from mmdiff.utils.modules import device_of, unwrap

from .batches import Batch, take_over, untouched
from .image_set import ImageSet
from .image_store import ImageStore
from .predictor import Predictor
from .progress import Progress, peak_memory
from .robust_plan import Run
from .whole_pixels import OwnPixels, is_whole


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

    Attributes:
        store: Keeps the images of the report's rows; ``None``: nobody asks for them.
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
        self.predictor = Predictor(runner, scorer, fp16)
        self.rank, self.world = get_dist_info()
        self.progress = Progress([], 0.0)
        self.store: ImageStore | None = None

    def locate(self) -> None:
        """Find the state folder of this model and dataset, which may not be there."""
        digests = self.images.digests()
        self._digests = digests or [''] * len(self.images)
        root = Path(self.runner.work_dir) / 'robust_state'
        self.folder = root / digest_json(self._identity(digests is not None))

    def open(self, fresh: bool) -> None:
        """Open the state folder, which :meth:`locate` found.

        Args:
            fresh: Delete what is in it.
        """
        root = self.folder.parent
        if self.rank == 0:
            if fresh:
                shutil.rmtree(self.folder, ignore_errors=True)
            elif not self.folder.exists() and root.is_dir() and any(root.iterdir()):
                self.runner.logger.info(
                    f'{root} holds runs of another model, weights or data, or of other '
                    'code of a model: they stay as they are, and this one begins anew '
                    f'in {self.folder.name}.'
                )
            self.folder.mkdir(parents=True, exist_ok=True)
        barrier()

    def _identity(self, batches_know_images: bool) -> list:
        """All that results depend on, beside the attack and images of a batch."""
        model, cfg = unwrap(self.runner.model), self.runner.cfg
        data = cfg.test_dataloader.dataset.to_dict()
        if batches_know_images:  # then a run on more of them goes on from here
            data.pop('indices', None)
        return [
            VERSION,
            self.images.batch_size,
            self.fp16,
            self.scorer.settings(),
            cfg.model.to_dict(),
            data,
            digest_model(model),
            digest_code(type(module) for module in model.modules()),
            device_of(model).type,
        ]

    def image_names(self, span: range) -> list[str]:
        """Names of some images and annotations; empty if the dataset tells none."""
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
            record = self._run_batch(run, batch, data, fooled, before)
            record.seconds = time.perf_counter() - start
            batch.save_all(record)
            self.progress.count(run.weight * len(batch.span), record.seconds)
            if number % self.interval == 0 or number == len(todo):
                self._log(run, batch)
        barrier()
        record = RunRecord.join(list(self._read_all(batches, run)))
        if run.of_row and not record.rounded:
            self.runner.logger.warning(
                f'{run.name}: some of what is kept is of a version that measured no '
                'rounded images: no metrics after rounding; --fresh attacks anew.'
            )
        if worst is not None:
            take_over(record, worst, np.flatnonzero(fooled))
        return record

    def folder_of(self, run: Run) -> Path:
        """State folder of a run."""
        parts: list = [type(run.attack).__name__]
        if run.attack is not None:
            parts.append(describe(run.attack))
        return self.folder / f'{run.name.replace(" ", "_")}-{digest_json(parts)}'

    def _batches(self, run: Run, fooled: np.ndarray) -> list[Batch]:
        """Batches of a run; a file's name says which images, and which are skipped."""
        folder = self.folder_of(run)
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
        parts = [batch.evaluation(seed) for seed in range(run.evaluations)]
        missing = [part for part in parts if part.load() is None]
        for part in missing:
            if part.file.exists():
                self.runner.logger.warning(f'{part.file} is damaged: done anew.')
        if missing:
            return True
        if self.store is not None and run.of_row and not self.store.holds(batch.file):
            return True
        self.progress.left -= run.weight * len(batch.span)
        return False

    def _log(self, run: Run, batch: Batch) -> None:
        runs = self.progress.runs
        self.runner.logger.info(
            f'run {runs.index(run) + 1} of {len(runs)} ({run.name}): image '
            f'{batch.span.stop} of {run.num_images}, ETA {self.progress.eta}'
        )

    def _read_all(self, batches: Sequence[Batch], run: Run) -> Iterator[RunRecord]:
        for batch in batches:
            record = batch.load_all(run.evaluations)
            if record is None:
                raise FileNotFoundError(
                    f'Rank {self.rank} does not see {batch.file}; all ranks must share '
                    'work_dir.'
                )
            # Where no gradient came through, the images are the clean ones.
            name = 'clean' if record.blocked else run.name
            record.origin = [name] * len(batch.span)
            yield record

    @torch.no_grad()
    def _run_batch(
        self,
        run: Run,
        batch: Batch,
        data: dict,
        fooled: np.ndarray,
        before: Sequence[RunRecord],
    ) -> RunRecord:
        """Attack one batch once, and predict it in every evaluation."""
        span, skip = batch.span, fooled[batch.span].tolist()
        for i, sample in zip(span, data['data_samples']):
            self.images.remember(i, sample)
        attacked, blocked = data, 0
        stats, losses = AttackStats(), [math.nan] * len(span)
        with peak_memory() as peak:
            if run.attack is not None and not all(skip):
                try:
                    result = attack_and_look(run.attack, self.oracle, data, skip)
                    attacked = {**data, 'inputs': result.inputs}
                    losses, stats = result.losses, result.stats
                except GradientBlocked:
                    blocked = len(span) - sum(skip)
            if blocked or all(skip):
                clean = before[0].evaluations[: run.evaluations]
                answers = [untouched(one, span) for one in clean]
                self._keep_images(run, batch, None, skip)
            else:
                inputs = self._round(run, batch, data, attacked, skip)
                answers = [
                    self.predictor.answer(run, span, attacked, inputs, seed)
                    for seed in range(run.evaluations)
                ]
        records = [
            self.predictor.record(run, span, answer, losses) for answer in answers
        ]
        first, *first.others = records
        first.stats, first.peak_mem = stats, peak[0]
        for record in records:
            record.blocked = blocked
        return first

    def _round(
        self, run: Run, batch: Batch, data: dict, attacked: dict, skip: list[bool]
    ) -> Sequence[torch.Tensor] | torch.Tensor | None:
        """Inputs in whole pixel values; ``None`` if they are such already."""
        if not run.of_row:
            return None
        inputs = attacked['inputs']
        if attacked is data and self.store is None and all(map(is_whole, inputs)):
            return None
        budget = None if run.attack is None else run.attack.budget
        pixels = OwnPixels.of(self.oracle, data, inputs, budget)
        self._keep_images(run, batch, pixels, skip)
        return pixels.rounded_inputs()

    def _keep_images(
        self, run: Run, batch: Batch, pixels: OwnPixels | None, skip: list[bool]
    ) -> None:
        """Write the images that a run made, none if there are no pixels of them."""
        if self.store is None or not run.of_row:
            return
        numbers = {}
        if pixels is not None:
            kept = [k for k, left_out in enumerate(skip) if not left_out]
            numbers = {k: batch.span[k] for k in kept}
        self.store.keep(batch.file, pixels, numbers)


def describe(attack: Attack) -> dict[str, Any]:
    """All that an attack's images depend on, beside the model, as JSON says it."""
    settings = {field.name: getattr(attack, field.name) for field in fields(attack)}
    # Named only where there is one: runs without are those of before.
    if settings.pop('mask') is not None:
        settings['mask'] = attack.budget.mask
    settings['code'] = code_of(attack)
    if isinstance(attack, Universal):
        settings['file'] = attack.perturbation.digest  # wherever it lies
    source = settings.get('source')
    if source is not None:
        settings['source'] = str(source)
        config, weights = Path(source.config), Path(source.checkpoint)
        if config.is_file() and weights.is_file():  # else the attack says so
            model = Config.fromfile(config).model.to_dict()
            settings['model'] = [model, digest_file(weights)]
    return settings


def code_of(attack: Attack) -> str:
    """Name of the code of an attack, of its objective and of its mask."""
    kinds = [type(attack), type(attack.mask)]
    objective = getattr(attack, 'objective', None)
    if isinstance(objective, Mapping) or objective in BUILT:
        kinds.append(type(build_objective(objective)))
        inner = inner_objective(objective)
        if isinstance(inner, str) and inner in BUILT:
            kinds.append(type(build_objective(inner)))
    return digest_code(kinds)
