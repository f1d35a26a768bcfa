"""Runs over the test images, kept on disk batch by batch."""

import copy
import hashlib
import math
import shutil
import time
import zlib
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import numpy as np
import torch
from mmdet.models.utils import samplelist_boxtype2tensor
from mmengine.config import Config
from mmengine.dist import barrier, get_dist_info
from mmengine.runner import Runner
from mmengine.runner.amp import autocast
from torch.utils.data import DataLoader

from mmdiff.attacks import Attack, AttackStats, GradientBlocked
from mmdiff.utils.modules import unwrap
from mmdiff.evaluation.image_ap import image_ap
from mmdiff.evaluation.sanity import settings

from ..hooks.attack_hook import ground_truth_scale
from .robust_plan import Unit
from .robust_record import FIELDS, VERSION, RobustRecord, digest, digest_weights


class RobustRuns:
    """Run units over the images of a test set, each batch once and for all.

    Batches are of consecutive images of the dataset, whatever the number of ranks:
    rank ``r`` of ``n`` takes every ``n``-th, and all ranks read all results.

    Args:
        runner: With model and ``work_dir``.
        dataloader: Of the test set.
        fp16: Autocast the predictions.
        interval: Batches between two lines of progress.
        legacy: Boxes as VOCMetric has them (:func:`mmdiff.evaluation.image_ap`).
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader,
        fp16: bool,
        interval: int,
        legacy: bool,
    ) -> None:
        self.runner = runner
        self.legacy = legacy
        self.dataloader = dataloader
        self.dataset = dataloader.dataset
        self.fp16 = fp16
        self.interval = interval
        self.rank, self.world = get_dist_info()
        self.images = len(self.dataset)
        self.batch = dataloader.batch_size or 1
        self.gt_scale = ground_truth_scale(self.dataset)
        self._samples: dict = {}

    def open(self, fresh: bool) -> None:
        """Find the folder of this model on these data; ``fresh``: empty it."""
        model, cfg = unwrap(self.runner.model), self.runner.cfg
        data = cfg.test_dataloader.dataset.to_dict()
        self._infos = [''] * self.images
        if hasattr(self.dataset, 'get_data_info'):
            # Batches know their images, so a run on more of them goes on from here.
            data.pop('indices', None)
            infos = map(self.dataset.get_data_info, range(self.images))
            self._infos = [digest(info) for info in infos]
        parts = [VERSION, self.batch, self.fp16, self.gt_scale, self.legacy]
        parts += [cfg.model.to_dict(), data]
        parts += [digest_weights(model), next(model.parameters()).device.type]
        root = Path(self.runner.work_dir) / 'robust_state'
        self.folder = root / digest(parts)
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

    def plan(self, units: Sequence[Unit]) -> None:
        """What is to come, for the time it takes."""
        self.units = list(units)
        self.left = sum(unit.images * unit.weight for unit in units) / self.world
        self.spent = self.done = 0.0

    def run(
        self, unit: Unit, before: Sequence[RobustRecord] = (), skip: bool = False
    ) -> RobustRecord:
        """Run what is not there yet, and read it all.

        Args:
            unit: The run.
            before: Records of the clean run and of earlier attacks within the budget.
            skip: Images that one of these attacks brought to AP 0 keep its detections.
              Those that the clean run misses are attacked all the same: false alarms
              on them count over the set.

        Raises:
            FileNotFoundError: If ranks do not share ``work_dir``.
            ValueError: If a file there is of another run.
        """
        parts = [type(unit.attack).__name__]
        if unit.attack is not None:
            unit.attack.gt_scale = self.gt_scale
            parts.append(_describe(unit.attack))
        fooled = np.zeros(unit.images, bool)
        if skip and before[1:]:
            worst = RobustRecord.worst(before[1:])
            fooled = worst.ap == 0
        folder = self.folder / f'{unit.name.replace(" ", "_")}-{digest(parts)}'
        folder.mkdir(parents=True, exist_ok=True)  # rank 0 made it, if they share it
        starts = range(0, unit.images, self.batch)
        spans = [range(k, min(k + self.batch, unit.images)) for k in starts]
        files = []
        for span in spans:
            of = digest([self._infos[span.start : span.stop], fooled[span].tolist()])
            files.append(folder / f'{span.start:06d}-{of}.safetensors')
        names = [f'{self.folder.name}/{folder.name}/{file.stem}' for file in files]
        todo = []
        for k in range(self.rank, len(spans), self.world):
            if RobustRecord.load(files[k], len(spans[k]), names[k]) is None:
                todo.append(k)
                if files[k].exists():
                    self.runner.logger.warning(f'{files[k]} is damaged: done anew.')
            else:
                self.left -= unit.weight * len(spans[k])
        batches = self._load([spans[k] for k in todo])
        for number, (k, batch) in enumerate(zip(todo, batches), 1):
            start = time.perf_counter()
            out = fooled[spans[k]].tolist()
            record = self._run_batch(unit, spans[k], batch, out, before)
            record.seconds = time.perf_counter() - start
            record.save(files[k], names[k])
            weight = unit.weight * len(spans[k])
            self.spent, self.done = self.spent + record.seconds, self.done + weight
            self.left -= weight
            if number % self.interval == 0 or number == len(todo):
                eta = timedelta(seconds=round(self.left * self.spent / self.done))
                self.runner.logger.info(
                    f'run {self.units.index(unit) + 1} of {len(self.units)} '
                    f'({unit.name}): image {spans[k].stop} of {unit.images}, ETA {eta}'
                )
        barrier()
        records = [
            RobustRecord.load(file, len(span), name)
            for file, span, name in zip(files, spans, names)
        ]
        if None in records:
            raise FileNotFoundError(
                f'Rank {self.rank} does not see {files[records.index(None)]}; all '
                'ranks must share work_dir.'
            )
        record = RobustRecord.join(records)
        for i in np.flatnonzero(fooled):  # files have what was found without an attack
            record.detections[i], record.ap[i] = worst.detections[i], 0.0
        return record

    def _load(self, spans: list[range]) -> Iterable[dict]:
        """Batches of exactly these images, loaded as the dataloader would."""
        names = ('collate_fn', 'worker_init_fn', 'pin_memory')
        return DataLoader(
            self.dataset,
            batch_sampler=[list(span) for span in spans],
            num_workers=min(self.dataloader.num_workers, len(spans)),
            **{name: getattr(self.dataloader, name) for name in names},
        )

    @torch.no_grad()
    def _run_batch(self, unit, span, batch, skip, before) -> RobustRecord:
        for i, sample in zip(span, batch['data_samples']):
            self._remember(i, sample)
        stats, losses, blocked = AttackStats(), [math.nan] * len(span), 0
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        if unit.attack is not None and not all(skip):
            unit.attack.stats = stats
            try:
                inputs = unit.attack(self.runner.model, batch, skip=skip)
                batch, losses = dict(batch, inputs=inputs), unit.attack.image_losses
            except GradientBlocked:
                blocked = len(span) - sum(skip)
        if blocked or all(skip):
            found = [before[0].detections[i] for i in span]
        else:
            # What the model draws is another noise in every run, and the same one
            # when the run is resumed.
            with torch.random.fork_rng(), autocast(enabled=self.fp16):
                torch.manual_seed(zlib.crc32(f'{unit.name}/{span.start}'.encode()))
                found = self.runner.model.test_step(batch)
            found = [_boxes(output) for output in found]
        aps = [
            image_ap(detections, self.sample(i), self.gt_scale, self.legacy)
            for i, detections in zip(span, found)
        ]
        if torch.cuda.is_available():
            memory = torch.cuda.max_memory_allocated()
        else:  # of the process so far: there is none of this batch alone
            memory = getrusage(RUSAGE_SELF).ru_maxrss * 1024
        losses, aps = np.array(losses, float), np.array(aps, float)
        return RobustRecord(found, losses, aps, stats, 0.0, memory, blocked)

    def count_on_larger_canvas(self) -> int:
        """Images that pad to less than their batch: attacked alone, predicted in it."""
        preprocessor = unwrap(self.runner.model).data_preprocessor
        divisor, found = getattr(preprocessor, 'pad_size_divisor', 1) or 1, 0
        for start in range(0, self.images, self.batch):
            span = range(start, min(start + self.batch, self.images))
            shapes = [self.sample(i).metainfo.get('img_shape', (0, 0)) for i in span]
            sizes = [tuple(-(-side // divisor) for side in s[:2]) for s in shapes]
            canvas = tuple(map(max, zip(*sizes)))
            found += sum(size != canvas for size in sizes)
        return found

    def sample(self, index: int):
        """The dataset's own data sample, with its ground truth."""
        if index not in self._samples:
            self._remember(index, self.dataset[index]['data_samples'])
        return self._samples[index]

    def _remember(self, index: int, sample) -> None:
        if index not in self._samples:
            sample = copy.deepcopy(sample).cpu()
            samplelist_boxtype2tensor([sample])
            for key in ('gt_instances', 'ignored_instances'):
                if 'masks' in sample.get(key, {}):
                    del sample.get(key).masks  # large, and never measured
            self._samples[index] = sample


def _describe(attack: Attack) -> dict:
    """All settings of an attack, as JSON can say them."""
    found = settings(attack)
    if isinstance(found.get('attack'), Attack):  # made on another model
        found['attack'] = _describe(found['attack'])
        config, file = (Path(found['source'][k]) for k in ('config', 'checkpoint'))
        if config.is_file() and file.is_file():  # else the attack says so
            weights = hashlib.sha256(file.read_bytes()).hexdigest()
            found['model'] = [Config.fromfile(config).model.to_dict(), weights]
    return found


def _boxes(output) -> dict[str, torch.Tensor]:
    found = output.pred_instances
    if not all(name in found for name in FIELDS):
        raise ValueError(
            f'Robustness is measured on detections with {", ".join(FIELDS)}, and this '
            f'model predicts only {", ".join(found.keys())}.'
        )
    return {name: found[name].detach().cpu() for name in FIELDS}
