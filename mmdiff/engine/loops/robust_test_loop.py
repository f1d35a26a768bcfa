"""Clean and under every attack, in one run that can be killed and resumed."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path

import numpy as np
from mmdet.evaluation import VOCMetric
from mmengine.dataset import pseudo_collate
from mmengine.runner import TestLoop

from mmdiff.attacks import Attack, AttackStats, GradientAttack, GradientBlocked
from mmdiff.utils.modules import unwrap
from mmdiff.evaluation import draw_grid, main_metric, write_robustness
from mmdiff.evaluation.robustness import PROTOCOLS
from mmdiff.evaluation.sanity import (
    check_controls,
    check_entry,
    check_rows,
    controls,
    count_differing,
    name_of,
    variant,
)
from mmdiff.registry import LOOPS

from ..hooks.attack_hook import AttackHook
from .robust_metrics import RobustMetrics
from .robust_plan import (
    Unit,
    budget_of,
    build_attacks,
    is_inside,
    key_of,
    make_entries,
    make_units,
    size_of,
)
from .robust_record import RobustRecord
from .robust_runs import RobustRuns


@LOOPS.register_module()
class RobustTestLoop(TestLoop):
    """Test clean and under attacks: metrics by attack, checks, and a report.

    The runner's own evaluator measures each attack; its metrics come back as
    ``clean/pascal_voc/mAP``, ``apgd_total_eps4/pascal_voc/mAP`` and so on. At each
    budget with several attacks (or restarts), ``ensemble`` is the worst that they do
    together, image by image and over the set, smaller budgets included (see
    :meth:`RobustRecord.ensembles`), or one of them alone; its ``image_ap`` is the
    lowest of each image.

    All that is found is kept, batch by batch, in ``work_dir/robust_state``, in a folder
    for this model, its weights, the dataset and the batch size. Killed at any moment
    and started again, a run gives the numbers of an uninterrupted one, on any number of
    ranks (they must share ``work_dir``); of attacks or images added later only these
    are run.
    Hooks are called around the whole run, not at its batches.

    Args:
        runner: The runner.
        dataloader: Of the test set, with ground truth; its images are taken in order.
        evaluator: With a metric of boxes.
        attacks: Attacks or their configs, in which ``eps`` may be a list.
        fp16: Autocast the predictions, as mmengine's loop does.
        skip_fooled: Images that an earlier attack within the budget brought to AP 0
            keep those detections and are not attacked again: less work and the same
            lowest AP of each image, but rows that count the rows above them, and an
            ``ensemble`` that can be higher by what more false alarms would do.
        fresh: Forget what was kept.
        out: File of the report; ``None`` is ``work_dir/robustness.json``.
        name: Of the model in the report; ``None`` is its config's.
        protocol: ``'adaptive'``, or ``'paper'``: attacks as published, flaws included.
        train_seconds: What training took, if known, for the report.
        sanity_images: Images, rounded up to whole batches, for the runs behind the
            checks: clean again, noise, more steps, a huge budget, black-box search.
        num_gallery: Images to show in the report.
        interval: Batches between two lines of progress.

    Raises:
        ValueError: For an unknown protocol, or no images; on running, if there is no
            ground truth or no metric of boxes, for an attack that does not fit the
            detector, or under test-time augmentation.

    Example:
        >>> from mmengine.registry import LOOPS
        >>> LOOPS.get('mmdiff.RobustTestLoop').__name__
        'RobustTestLoop'
    """

    def __init__(
        self,
        runner,
        dataloader,
        evaluator,
        attacks: Sequence[dict | Attack],
        fp16: bool = False,
        skip_fooled: bool = False,
        fresh: bool = False,
        out: str | None = None,
        name: str | None = None,
        protocol: str = 'adaptive',
        train_seconds: float | None = None,
        sanity_images: int = 16,
        num_gallery: int = 3,
        interval: int = 10,
    ) -> None:
        try:
            super().__init__(runner, dataloader, evaluator, fp16)
        except ValueError as error:
            if 'need at least one array' not in str(error):
                raise
            raise ValueError(  # mmengine packs a list of no images
                'The test set has no images; check its ann_file, data_root and indices.'
            ) from None
        if protocol not in PROTOCOLS:
            raise ValueError(f'protocol={protocol!r} must be one of {PROTOCOLS}.')
        self.attacks = build_attacks(attacks)
        self.protocol = protocol
        self.skip_fooled = skip_fooled
        self.fresh = fresh
        self.out = Path(out or Path(runner.work_dir) / 'robustness.json')
        self.name = name or Path(runner.cfg.filename or runner.cfg.model.type).stem
        self.train_seconds = train_seconds
        self.num_gallery = num_gallery
        legacy = any(isinstance(m, VOCMetric) for m in self.evaluator.metrics)
        self.runs = RobustRuns(runner, self.dataloader, fp16, interval, legacy)
        self.images = self.runs.images
        self.metrics = RobustMetrics(self.evaluator, self.runs)
        # Whole batches: beside other images an image is padded otherwise.
        few = math.ceil(sanity_images / self.runs.batch) * self.runs.batch
        self.few = min(self.images, few)
        self.report: dict = {}

    def run(self) -> dict[str, float]:
        """Run the plan; returns the metrics of all entries by prefix."""
        self.runner.call_hook('before_test')
        self.runner.call_hook('before_test_epoch')
        self.runner.model.eval()
        self._check()
        self.runs.open(self.fresh)
        self.results: list[dict] = []
        self.measured: list[tuple[dict, float, RobustRecord]] = []
        self.more: dict = dict(complete=False)
        self._run_plan()
        metrics = {
            f'{entry["key"]}/{name}': value
            for entry in self.results
            for name, value in entry['metrics'].items()
        }
        self.runner.call_hook('after_test_epoch', metrics=metrics)
        self.runner.call_hook('after_test')
        return metrics

    def _check(self) -> None:
        """Fail now rather than after the clean run."""
        self.metrics.check()
        hooks = [h for h in self.runner.hooks if isinstance(h, AttackHook)]
        if any('test' in hook.stages for hook in hooks):
            raise ValueError(
                'RobustTestLoop attacks by itself; remove AttackHook from custom_hooks.'
            )
        model = unwrap(self.runner.model)
        batch = pseudo_collate([self.dataloader.dataset[0]])
        self.values = batch['inputs'][0].numel()
        if 'bboxes' not in batch['data_samples'][0].get('gt_instances', ()):
            raise ValueError(
                'The test set has no ground truth; add LoadAnnotations(with_bbox=True) '
                'to the test pipeline, after Resize.'
            )
        for attack in self.attacks:
            attack.gt_scale = self.runs.gt_scale
            # A step on an image: there may be an objective that the head cannot serve.
            with suppress(GradientBlocked):
                variant(attack, steps=1, restarts=1, eot=1)(model, batch)

    def _run_plan(self) -> None:
        self.entries = list(make_entries(self.attacks))
        # Small budgets first: what they find is within the larger ones too.
        entries = sorted(zip(self.attacks, self.entries), key=lambda e: size_of(e[1]))
        clean, again = Unit('clean', None, self.images), Unit('again', None, self.few)
        units = {e['key']: make_units(e, a, self.images) for a, e in entries}
        # The checks are about one attack, best along gradients, at its largest budget.
        checked = [e for e in entries if e[1]['role'] == 'attack' and e[0].eps]
        checked.sort(key=lambda e: not isinstance(e[0], GradientAttack))
        checked = [e for e in checked if e[1]['label'] == checked[0][1]['label']]
        checked = max(checked, key=lambda e: e[0].eps, default=(None, None))
        extra = {} if checked[0] is None else controls(checked[0], self.values)
        if extra and self.skip_fooled:  # to compare with, it must have run in full
            extra['attacked'] = checked[0]
        extra = {k: Unit(f'control {k}', run, self.few) for k, run in extra.items()}
        self.runs.plan(
            [clean, again, *(u for own in units.values() for u in own), *extra.values()]
        )
        first = self.runs.run(clean)
        names = dict.fromkeys(('attack', 'label', 'role', 'key'), 'clean')
        self._add(dict(names, reasons=[]), [first])
        if main_metric(self.results[0]) == 0:
            self.results[0]['reasons'].append('clean mAP is 0: nothing can be lost')
        differing = count_differing(first, self.runs.run(again))
        met: list[tuple[dict, list[RobustRecord]]] = []
        for _, entry in entries:
            skip = self.skip_fooled and entry['role'] == 'attack'
            inside = [runs for e, runs in met if is_inside(e, entry)]
            entry['cumulative'] = skip and bool(inside)
            before, found = [first, *chain.from_iterable(inside)], []
            for unit in units[entry['key']]:
                found.append(self.runs.run(unit, [*before, *found], skip))
            if differing and entry['role'] == 'attack' and entry.get('eot', 1) == 1:
                cure = 'set eot' if 'eot' in entry else 'and it has no eot to set'
                entry['reasons'].append(
                    f'{name_of(entry)} averaged over 1 pass, but two clean runs differ '
                    f'on {differing} of {self.few} images: randomised, {cure}'
                )
            record = self._add(entry, found)
            if entry is checked[1]:
                attacked = record
            if entry['role'] == 'attack':
                met.append((entry, found))
                before += found
            same = [e['key'] for _, e in entries if budget_of(e) == budget_of(entry)]
            own = [
                r for e, runs in met if budget_of(e) == budget_of(entry) for r in runs
            ]
            if entry['key'] == same[-1] and len(own) > 1:
                self._add_ensemble(entry, before)
        sanity = dict(images=self.few, clean_runs_differ=differing)
        sanity['larger_canvas'] = larger = self.runs.count_on_larger_canvas()
        if larger:
            self.runner.logger.warning(
                f'{larger} of {self.images} images pad to less than their batch: they '
                'are predicted on a larger canvas than they are attacked on. With '
                'test_dataloader.batch_size=1 both are the same.'
            )
        if checked[1] is not None:
            if checked[1]['sanity']['blocked']:  # no gradient there either
                extra = dict(noise=extra['noise'])
            figures = {k: self.runs.run(unit, [first]) for k, unit in extra.items()}
            name = name_of(checked[1])
            attacked = figures.pop('attacked', attacked)
            told, reasons = check_controls(name, first, attacked, figures)
            checked[1]['reasons'] += reasons
            sanity |= told
        for budget in {budget_of(entry) for entry in self.entries}:
            own = [entry for entry in self.entries if budget_of(entry) == budget]
            check_rows(own, self.results[0])
        rows = {entry['key']: entry for entry in self.results}
        for entry in (row for row in rows.values() if row['role'] == 'ensemble'):
            if all(rows[key]['reasons'] for key in entry['members']):
                entry['reasons'].append(
                    f'{name_of(entry)}: all its attacks are flagged'
                )
        gallery = self._draw_gallery(entries)
        self.more = dict(complete=True, sanity=sanity, gallery=gallery)
        self._write()

    def _add(self, entry: dict, runs: list[RobustRecord]) -> RobustRecord:
        """Measure an entry, of each image the run of highest objective; write it."""
        losses = np.stack([run.loss for run in runs])
        best = np.nan_to_num(losses, nan=-np.inf).argmax(0)
        record = RobustRecord.choose(runs, best)
        entry |= dict(num_images=self.images, metrics=self.metrics.measure(record))
        self.measured.append((entry, main_metric(entry), record))
        if len(runs) > 1:
            worst = RobustRecord.worst(runs)
            entry['metrics_worst_case'] = found = self.metrics.measure(worst)
            self.measured.append((entry, main_metric(dict(metrics=found)), worst))
        entry['image_ap'] = float(record.ap.mean())
        if self.runs.rank == 0:
            entry['per_class'] = self.metrics.per_class(record)
        stats = asdict(record.stats)
        cost = {k: stats.pop(k) for k in ('grad_evals', 'queries')}
        cost |= dict(seconds=round(record.seconds, 2), peak_mem=record.peak_mem)
        entry['cost'] = cost
        if entry['role'] in ('attack', 'control'):
            steps, count = stats['losses'], np.isfinite(losses).sum()
            ends = None
            if steps and count:  # means before and after the attack
                ends = steps[min(steps)] / count, float(np.nansum(losses) / count)
            more = dict(blocked=record.blocked, objective_ends=ends)
            entry['sanity'] = {**stats, **more}
            entry['reasons'] += check_entry(entry, self.results[0])
        self.results.append(entry)
        self.runner.logger.info(f'{entry["key"]}: mAP {main_metric(entry):.4f}')
        self._write()
        return record

    def _add_ensemble(self, last: dict, runs: list[RobustRecord]) -> None:
        """The worst of no attack and all attacks within one budget."""
        rows = [r for r in self.results[1:] if budget_of(r) == budget_of(last)]
        rows = [r for r in rows if r['role'] == 'attack']
        entry = dict(attack='ensemble', label='ensemble', role='ensemble', reasons=[])
        entry |= dict(norm=last['norm'], eps=last['eps'])
        entry |= dict(key=key_of(entry), members=[row['key'] for row in rows])
        margins = np.array([self.metrics.margins(run) for run in runs])
        ways = RobustRecord.ensembles(runs, margins)
        way = min(ways, key=self.metrics.mean_ap)
        mean_ap = main_metric(dict(metrics=self.metrics.measure(way)))
        # The metric may count otherwise than that choice did (COCO), and one attack
        # may do more to the images that another brought to AP 0.
        found = [(mean_ap, way)] + [
            (value, record)
            for row, value, record in self.measured
            if row['role'] == 'attack' and is_inside(row, last)
        ]
        record = min(found, key=lambda pair: pair[0])[1]
        # What it cost is counted in its members.
        self._add(entry, [replace(record, stats=AttackStats(), seconds=0.0)])
        entry['image_ap'] = float(np.stack([run.ap for run in runs]).min(0).mean())

    def _draw_gallery(self, entries: list) -> list[dict]:
        """Clean image, attacked image and change, under the strongest attack."""
        shown = [e for e in entries if e[1]['role'] == 'attack']
        shown = [e for e in shown if not e[1]['sanity']['blocked']]
        if not shown or self.runs.rank != 0:
            return []
        attack, entry = min(shown, key=lambda e: main_metric(e[1]))
        folder = self.out.with_name(f'{self.out.stem}_gallery')
        folder.mkdir(exist_ok=True)
        pictures = []
        for i in range(min(self.num_gallery, self.images)):
            file = folder / f'{entry["key"]}_{i}.png'
            draw_grid(file, {self.name: self.runner}, attack, [i])
            image_id = self.runs.sample(i).metainfo.get('img_id', i)
            picture = dict(image_id=image_id, attack=entry['label'], eps=entry['eps'])
            pictures.append(dict(picture, file=f'{folder.name}/{file.name}'))
        return pictures

    def _write(self) -> None:
        if self.runs.rank == 0:
            runner = self.runner
            parameters = unwrap(runner.model).parameters()
            trained = sum(p.numel() for p in parameters if p.requires_grad)
            cost = dict(trainable_params=trained, train_seconds=self.train_seconds)
            more = dict(name=self.name, protocol=self.protocol, cost=cost, **self.more)
            weights = runner._load_from or ''
            self.report = write_robustness(
                self.out, runner.cfg, weights, self.results, **more
            )
