"""Clean and under every attack, in one run that can be killed and resumed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner, TestLoop
from torch.utils.data import DataLoader

from mmdiff.attacks import Attack, Budget, oracle_of
from mmdiff.evaluation.checks import (
    check_clean,
    check_controls,
    check_scores,
    name_gradient,
)
from mmdiff.evaluation.entry import Entry
from mmdiff.evaluation.evaluations import describe_evaluations
from mmdiff.evaluation.record import RunRecord
from mmdiff.evaluation.results import Results, RunSanity
from mmdiff.evaluation.scoring import GroundTruth, restrict_images, scorer_type
from mmdiff.registry import LOOPS

from ..ground_truth import ground_truth_scale, metainfo_of
from ..hooks import AttackHook, TrainingTimeHook
from .adversarial_sets import sets_of
from .cached_runs import CachedRuns
from .flags import check_step, compare_rows
from .image_set import ImageSet, count_on_larger_canvas, image_names, is_empty
from .origin import describe_run, name_of
from .pictures import draw_gallery, shown_images
from .probing import ask_once
from .randomness import watch_randomness
from .robust_plan import RobustPlan, Step, build_attacks
from .rows import Outcome, RowFiller, chosen_origin
from .settings import (
    NO_IMAGES,
    check_classes,
    check_evaluations,
    check_settings,
    name_classes,
)
from .trial import try_attacks


@LOOPS.register_module()
class RobustTestLoop(TestLoop):
    """Test clean and under attacks: metrics by attack, checks, and a report.

    The runner's own evaluator measures each attack; its metrics come back as
    ``clean/pascal_voc/mAP``, ``apgd_total_eps4/pascal_voc/mAP`` and so on. At each
    budget with several attacks (or restarts), ``worst_case`` is the worst that they do
    together, image by image and over the set, smaller budgets included (see
    :func:`mmdiff.evaluation.worst_case.worst_case`), or one of them alone; its
    ``image_score`` is the mean of the lowest of each image.

    All that is found is kept, batch by batch, in ``work_dir/robust_state``, in a folder
    for this model, its weights, the dataset and the batch size. Killed at any moment
    and started again, a run gives the numbers of an uninterrupted one, on any number of
    ranks (they must share ``work_dir``); of attacks or images added later only these
    are run.
    Hooks are called around the whole run, not at its batches.

    Args:
        runner: The runner.
        dataloader: Dataloader of the test set, with ground truth; its images are taken
            in order.
        evaluator: Evaluator with a metric of the model's task.
        attacks: Attacks or their configs, in which ``eps`` may be a list.
        fp16: Autocast the predictions, as mmengine's loop does.
        skip_fooled: Images that an earlier attack within the budget brought to score 0
            keep those predictions and are not attacked again: less work and the same
            lowest score of each image, but rows that count the rows above them, and a
            ``worst_case`` that can be higher by what more false alarms would do.
        fresh: Forget what was kept.
        out: File of the report; ``None`` is ``work_dir/robustness.json``.
        name: Name of the model in the report; ``None`` is its config's.
        protocol: ``'adaptive'``, or ``'paper'``: attacks as published, flaws included.
        train_seconds: Time that training took; ``None``: what the checkpoint tells.
        sanity_images: Images, rounded up to whole batches, for the runs behind the
            checks: clean again, noise, more steps, a huge budget, black-box search.
        num_gallery: Images to show in the report.
        interval: Batches between two lines of progress.
        leave_out: Leave out attacks that have no meaning for the model, and say so in
            log and report, instead of refusing to run; presets set it.
        indices: Take this number of first images only, of any dataset or wrapper.
        save_adversarial: Folder for the images of every row, as a data set of its own.
        save_format: ``'png'`` (8 bits, the default) or ``'npy'`` (exact values).
        evaluations: Of a model that draws: how often the clean images, and what each
            attack left, are tested, each time with other seeds. Rows are the mean (see
            :mod:`mmdiff.evaluation.evaluations`).

    Raises:
        ValueError: For wrong settings, no images, or no metric of the model's task; on
            running, if there is no ground truth, for an attack that does not fit the
            model, or under test-time augmentation.

    Example:
        >>> from mmengine.registry import LOOPS
        >>> LOOPS.get('mmdiff.RobustTestLoop').__name__
        'RobustTestLoop'
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        evaluator: Evaluator | dict | list,
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
        leave_out: bool = False,
        indices: int | None = None,
        save_adversarial: str | None = None,
        save_format: str | None = None,
        evaluations: int = 1,
    ) -> None:
        try:
            super().__init__(runner, dataloader, evaluator, fp16)
        except ValueError:
            if is_empty(dataloader):
                raise ValueError(NO_IMAGES) from None
            raise
        check_settings(protocol, indices, len(self.dataloader.dataset))
        check_evaluations(evaluations, skip_fooled)
        self.attacks, self.skip_fooled = build_attacks(attacks), skip_fooled
        self.out = Path(out or Path(runner.work_dir) / 'robustness.json')
        self.fresh, self.name = fresh, name or name_of(runner.cfg)
        self.training_time = TrainingTimeHook.of(runner, train_seconds)
        self.num_gallery, self.leave_out = num_gallery, leave_out
        self.indices, self.evaluations, self.protocol = indices, evaluations, protocol
        self._connect(fp16, interval, sanity_images)
        self.sets = sets_of(save_adversarial, save_format, self.runs)

    def _connect(self, fp16: bool, interval: int, sanity_images: int) -> None:
        """Build what knows the task: oracle, images, scorer, and the runs on them."""
        self.results = Results(self.name, [])
        dataset = self.dataloader.dataset
        gt_scale = ground_truth_scale(dataset)
        self.oracle = oracle_of(self.runner.model, gt_scale)
        kind = scorer_type(self.oracle.task)
        self.images = ImageSet(self.dataloader, kind.lighten, self.indices)
        self.num_checked = self.images.count_whole_batches(sanity_images)
        metainfo = metainfo_of(dataset)
        name_classes(self.evaluator, metainfo)
        self.oracle.classes = classes = tuple(metainfo.get('classes', ()))
        truth = GroundTruth(len(self.images), self.images.sample, classes, gt_scale)
        self.scorer = kind(self.evaluator, truth)
        self.runs = CachedRuns(
            self.runner, self.images, self.oracle, self.scorer, fp16, interval
        )
        self.rows = RowFiller(self.scorer, self.runs.rank, self.runs.world)

    def run(self) -> dict[str, float]:
        """Run the plan; return the metrics of all rows by prefix."""
        self.runner.call_hook('before_test')
        self.runner.call_hook('before_test_epoch')
        self.runner.model.eval()
        batch = pseudo_collate([self.dataloader.dataset[0]])
        self._check(batch)
        self.plan = RobustPlan(
            self.attacks,
            len(self.images),
            self.num_checked,
            batch['inputs'][0].numel(),
            self.skip_fooled,
            self.evaluations,
        )
        self.runs.locate()
        if self.sets is not None:
            self.sets.open(self.plan, batch, self.name)
        self.runs.open(self.fresh)
        self._run_plan()
        metrics = {}
        for entry in self.results.entries:
            metrics |= {f'{entry.key}/{k}': v for k, v in entry.metrics.items()}
        self.runner.call_hook('after_test_epoch', metrics=metrics)
        self.runner.call_hook('after_test')
        return metrics

    def _check(self, batch: dict) -> None:
        """Fail now rather than after the clean run."""
        hooks = [h for h in self.runner.hooks if isinstance(h, AttackHook)]
        if any('test' in hook.stages for hook in hooks):
            raise ValueError(
                'RobustTestLoop attacks by itself; remove AttackHook from custom_hooks.'
            )
        check_classes(self.oracle)
        self.scorer.check_sample(batch['data_samples'][0])
        restrict_images(self.evaluator, self.images.ids())
        for what in self.scorer.not_measured:
            self.runner.logger.warning(
                f'{what} is not measured: RobustTestLoop compares boxes.'
            )
        self.attacks, self.left_out = try_attacks(
            self.attacks, self.oracle, batch, self.leave_out, self.runner.logger
        )

    def _run_plan(self) -> None:
        plan = self.plan
        self.results = describe_run(
            self.runner,
            self.oracle.task,
            self.name,
            self.protocol,
            self.training_time.seconds,
            self.indices,
        )
        self.results.not_measured = self.scorer.not_measured
        self.results.left_out = list(dict.fromkeys(self.left_out))
        self.outcomes: list[Outcome] = []
        self.runs.expect(plan.runs)
        self._run_clean()
        self.randomness = watch_randomness(self.runs, plan, self.clean)
        self.results.clean.flags += self.randomness.flags(self.results.clean)
        self.probes = ask_once(self.runs, self.oracle, plan.steps)
        for step in plan.steps:
            step.entry.flags += self.randomness.flags(step.entry)
            self._run_attack(step)
            if plan.ends_budget(step):
                self._add_worst_case(step.entry.budget)
        sanity = self._run_controls()
        sanity.clean_runs_differ = self.randomness.differing
        sanity.probes = self.probes
        sanity.larger_canvas = count_on_larger_canvas(self.images, self.runner)
        compare_rows(self.results, plan.in_order, self.scorer.score_name)
        self.results.sanity, self.results.complete = sanity, True
        for sentence in describe_evaluations(self.results):
            self.runner.logger.info(sentence)
        if self.sets is not None:
            self.sets.finish(self.results)
        self._write()  # before pictures: nothing that befalls them costs the report
        if self.runs.rank == 0:
            shown = shown_images(self.images, self.num_gallery)
            self.results.gallery = draw_gallery(
                self.out, self.name, self.runner, plan.steps, shown
            )
            self._write()

    def _run_clean(self) -> None:
        entry = Entry.clean()
        self.clean = self.runs.run(self.plan.clean)
        self.rows.measure(entry, self.clean)
        if not entry.value >= 0:  # NaN, or COCO's -1
            raise ValueError(
                f'{entry.metric} is {entry.value:g} on the clean images: they show no '
                'objects of any class, so there is nothing to attack.'
            )
        one_each = self.oracle.task == 'classification'
        entry.flags += check_clean(entry, len(self.oracle.classes) * one_each)
        self.results.image_ids = image_names(self.images)
        self._add(entry, self.clean.origin)

    def _run_attack(self, step: Step) -> None:
        """Run an attack's restarts; its row is what the best of them leave."""
        entry = step.entry
        entry.flags += name_gradient(entry, self.results.shield)
        entry.flags += check_scores(entry, self.scorer.score_spread(self.clean))
        inside = [run for o in self._within(entry.budget) for run in o.runs]
        skip = self.skip_fooled and entry.role == 'attack'
        entry.cumulative = skip and bool(inside)
        # Restarts skip what those before them fooled, too.
        entry.upper_bound = entry.cumulative or (skip and len(step.runs) > 1)
        runs: list[RunRecord] = []
        for run in step.runs:
            runs.append(self.runs.run(run, [self.clean, *inside, *runs], skip))
        outcome = self.rows.fill(step, runs)
        self.outcomes.append(outcome)
        entry.flags += check_step(step, self.results.clean, self.probes)
        self._add(entry, outcome.record.origin)

    def _within(self, budget: Budget) -> list[Outcome]:
        """Attacks so far that may do no more than the budget allows."""
        outcomes = [o for o in self.outcomes if o.step.entry.role == 'attack']
        return [o for o in outcomes if o.step.entry.budget in budget]

    def _add(self, entry: Entry, origin: list[str]) -> None:
        self.results.entries.append(entry)
        self.rows.save_tables(self.results, self.out)
        self.runner.logger.info(f'{entry.key}: {entry.metric} {entry.value:.4f}')
        self._write()
        if self.sets is not None:
            self.sets.write(entry, origin, self.results)

    def _add_worst_case(self, budget: Budget) -> None:
        """Add the worst of no attack and all attacks within one budget."""
        inside = self._within(budget)
        here = [o for o in inside if o.step.entry.budget == budget]
        if sum(len(outcome.runs) for outcome in here) > 1:
            entry = self.rows.worst_case(budget, self.clean, inside)
            entry.flags += self.randomness.flags(entry)
            self._add(entry, chosen_origin(entry, self.clean, inside))

    def _run_controls(self) -> RunSanity:
        """Compare one attack with its controls."""
        step, runs = self.plan.checked, dict(self.plan.controls)
        if step is None:
            return RunSanity(self.num_checked)
        if step.entry.sanity.blocked:  # no gradient there either
            runs = {'random_noise': runs['random_noise']}
        records = {name: self.runs.run(run, [self.clean]) for name, run in runs.items()}
        outcome = next(o for o in self.outcomes if o.step is step)
        attacked = records.pop('attacked', outcome.record)
        shown = [self.scorer.can_be_lost(i) for i in range(self.num_checked)]
        sanity, flags = check_controls(
            step.entry, self.clean, attacked, records, self.scorer.score_name, shown
        )
        step.entry.flags += flags
        return sanity

    def _write(self) -> None:
        if self.runs.rank == 0:
            self.results.write(self.out)
