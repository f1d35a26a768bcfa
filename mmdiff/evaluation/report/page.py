"""Arrange models side by side: rows, notes, classes and figures of a page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mmdiff.attacks import Budget

from ..account import Sanity
from ..evaluations import describe_evaluations
from ..rounding import rounding_notes
from ..tables import Row, Table, align, broke_table, short_name
from .differences import differences_table
from .figures import COSTS, draw_cost, draw_curve
from .read import ReportModel

FEW_IMAGES = 100  # below, some hundredths of mAP are chance
SOME_IMAGES = 500  # below, draws do not tell how much higher mAP is than on many


@dataclass
class Page:
    """What a template shows.

    Args:
        models: The models.
        metric: Short name of the metric that is compared.
        table: All attacks, the models side by side.
        budgets: Budgets at which any model was attacked, as tables show them.
        strongest: Largest bounded budget that all models have; ``None`` without one.
        classes: For each class, clean and robust value of each model, or ``None``.
        notes: What to know before any two numbers are compared.
        curve: Figure of the metric over eps, as SVG; empty without attacks.
        cost: Figure of the metric over cost, as SVG; empty without costs.
        differences: Differences of models on the same images; ``None`` without a pair.
        broke: What became of the objects, a table for each model that knows.
    """

    models: list[ReportModel]
    metric: str
    table: list[Row]
    budgets: dict[Budget, str]
    strongest: Budget | None
    classes: dict[str, list[tuple[float, float] | None]]
    notes: list[str]
    curve: str
    cost: str
    differences: Table | None = None
    broke: list[Table] = field(default_factory=list)


def build_page(models: Sequence[ReportModel]) -> Page:
    """Arrange what :func:`~mmdiff.evaluation.report.read_reports` gives."""
    models = list(models)
    table = align([model.entries for model in models])
    budgets = _budgets(models)
    shared = [b for b in budgets if all(b in model.lead for model in models)]
    bounded = [b for b in shared if b.radius < math.inf]
    # One without a mask is the stronger one, whatever its size.
    strongest = max(bounded, key=lambda b: (not b.mask, b.norm, b.radius), default=None)
    metric = short_name(models[0].clean.metric)
    costs = _costs(models, table)
    differences, refused = differences_table(models, budgets)
    broke = [broke_table(model.results) for model in models]
    return Page(
        models=models,
        metric=metric,
        table=table,
        budgets=budgets,
        strongest=strongest,
        classes=_classes(models, strongest),
        notes=[*_notes(models, table), *_notes_on_costs(costs), *refused],
        curve=draw_curve(models, metric),
        cost=draw_cost(models, metric, strongest, costs),
        differences=differences,
        broke=[table for table in broke if table is not None],
    )


def _order(budget: Budget) -> tuple[str, str, float]:
    return budget.mask, budget.norm, budget.radius


def _budgets(models: Sequence[ReportModel]) -> dict[Budget, str]:
    """All budgets, small ones first, as tables show them."""
    where = {}
    for model in models:
        for budget, entry in model.lead.items():
            where[budget] = entry.where
    return {budget: where[budget] for budget in sorted(where, key=_order)}


def _classes(
    models: Sequence[ReportModel], strongest: Budget | None
) -> dict[str, list[tuple[float, float] | None]]:
    """Clean and robust value of each class and model at one budget."""
    classes: dict[str, list[tuple[float, float] | None]] = {}
    for number, model in enumerate(models):
        worst = model.lead.get(strongest)
        robust = {} if worst is None else worst.per_class
        for name, clean in model.clean.per_class.items():
            if not math.isnan(clean) and not math.isnan(robust.get(name, math.nan)):
                pairs = classes.setdefault(name, [None] * len(models))
                pairs[number] = clean, robust[name]
    return classes


def _costs(
    models: Sequence[ReportModel], table: Sequence[Row]
) -> list[dict[str, float]]:
    """Costs of each model by name; 0 for what is not known."""
    common = [r.cells for r in table if r.entry.role == 'attack' and all(r.cells)]
    costs = []
    for number, model in enumerate(models):
        attacks = [cells[number] for cells in common]
        per_image = [e.cost.seconds / (e.num_images or 1) for e in attacks]
        costs.append(
            {
                'trainable_params': model.cost.trainable_params or 0,
                'train_seconds': model.cost.train_seconds or 0,
                'attack_seconds': sum(per_image),
            }
        )
    return costs


def _notes(models: Sequence[ReportModel], table: Sequence[Row]) -> Iterator[str]:
    """What to know before any two numbers are compared."""
    for model in models:
        yield from _notes_on_images(model)
        yield from _notes_on_entries(model)
        yield from _notes_on_masks(model)
    if any(entry.cumulative for model in models for entry in model.entries):
        yield (
            'Rows marked * were run on what is left: images that an attack before them '
            '(of a smaller budget, or above at the same one) brought to score 0 are '
            'counted as that one left them.'
        )
    yield from _differences(models)
    if not all(cell for row in table for cell in row.cells):
        yield 'Not every model met the same attacks: compare within a row only.'


def _notes_on_images(model: ReportModel) -> Iterator[str]:
    images = model.clean.num_images
    if images < FEW_IMAGES:
        yield (
            f'{model.name}: only {images} images; some hundredths of '
            f'{short_name(model.clean.metric)} are chance.'
        )
    if model.larger_canvas:
        yield (
            f'{model.name}: {model.larger_canvas} images were predicted beside larger '
            'ones, on a larger canvas than they were attacked on; a batch size of '
            '1 would make both the same.'
        )
    if model.results.shield is not None:
        yield f'{model.name}: {model.results.shield.sentence}'
    yield from _notes_on_intervals(model)
    if model.probed:
        yield f'{model.name}: {model.probed}'
    for sentence in describe_evaluations(model.results):
        yield f'{model.name}: {sentence}'
    for attack in model.results.left_out:
        yield f'{model.name}: {attack.attack} was left out. {attack.reason}'
    for what in model.results.not_measured:
        yield f'{model.name}: {what} was not measured, boxes only.'
    if not model.results.complete:
        yield f'{model.name}: the run was not finished; start it again to resume it.'


def _notes_on_intervals(model: ReportModel) -> Iterator[str]:
    """How intervals are made, or that there are none."""
    images, how = model.clean.num_images, model.results.intervals
    if model.clean.interval is None:
        problem = 'the file keeps nothing of single images' if how is None else ''
        problem = problem or (how.problem if how else '') or 'nothing to measure'
        yield f'{model.name}: no interval: {problem.rstrip(".")}.'
    elif how is not None:
        yield (
            f'{model.name}: brackets hold {100 * how.level:g} % intervals over draws '
            f'of the images ({how.resamples} resamples); of a worst case, with its '
            'choice of attacks held.'
        )
        if short_name(model.clean.metric) == 'mAP' and images < SOME_IMAGES:
            yield (
                f'{model.name}: for mAP on {images} images they are too narrow; of '
                'sets of 64 photographs 77 to 85 %, of 200 86 to 93 % held the mAP of '
                'all.'
            )
    for entry in model.entries:
        if model.clean.interval is not None and entry.interval is None:
            yield f'{model.name}, {entry.name}: no interval.'
        if entry.upper_bound and entry.role == 'worst_case':
            yield (
                f'{model.name}, {entry.name}: an upper bound of what the attacks leave '
                'together, as fooled images were skipped.'
            )


def _notes_on_entries(model: ReportModel) -> Iterator[str]:
    images, lead = model.clean.num_images, model.lead
    metric = short_name(model.clean.metric)
    for entry in model.entries:
        at = f'{model.name}, {entry.label}, {entry.where}'
        if entry.num_images != images:
            yield (
                f'{at}: on {entry.num_images} images, the clean {metric} on {images}.'
            )
        worst = lead.get(entry.budget, entry)
        if entry.role == 'attack' and entry.value < worst.value:
            yield f'{at}: alone it leaves less than the {worst.label} does.'
    for note in rounding_notes(model.entries, model.clean):
        yield f'{model.name}, {note}'


def _notes_on_masks(model: ReportModel) -> Iterator[str]:
    """How much of the images masked attacks could change."""
    widest: dict[str, Sanity] = {}
    for entry in model.entries:
        if entry.sanity is not None and entry.budget and entry.budget.mask:
            known = widest.setdefault(entry.budget.mask, entry.sanity)
            # Rows of what was left tell of some images only.
            if _masked_images(entry.sanity) > _masked_images(known):
                widest[entry.budget.mask] = entry.sanity
    for mask, sanity in widest.items():
        note = f'{model.name}: the mask {mask} leaves {sanity.mask_share:.1%} of pixels'
        if sanity.mask_empty:
            note += f' and nothing of {sanity.mask_empty} images, which stay clean'
        yield f'{note}.'


def _masked_images(sanity: Sanity) -> int:
    return sanity.images + sanity.mask_empty


def _differences(models: Sequence[ReportModel]) -> Iterator[str]:
    """Conditions in which the models differ."""
    told = ('protocol', 'device', 'data_root', 'ann_file')
    for what in (*told, 'images', 'metric', 'evaluations'):
        values = []
        for model in models:
            if what == 'images':
                values.append(str(model.clean.num_images))
            elif what == 'evaluations':
                values.append(str(len(model.clean.evaluations or [0])))
            elif what == 'metric':
                values.append(model.clean.metric)
            else:
                values.append(str(model.about[what]))
        if len(set(values)) > 1:
            yield f'The models differ in {what}: {", ".join(values)}.'


def _notes_on_costs(costs: Sequence[dict[str, float]]) -> Iterator[str]:
    for name, cost in COSTS.items():
        known = sum(bool(of_model[name]) for of_model in costs)
        if 0 < known < len(costs):
            yield f'Not every file tells this cost: {cost.label}.'
