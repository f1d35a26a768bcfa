"""Differences of two models, measured on the same images: paired intervals."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmdiff.attacks import Budget

from ..image_tables import ImageTable, objects_of, value_of
from ..row_tables import RowTables
from ..tables import Table, settings_of, spread
from ..uncertainty import Bootstrap, share_kept
from .read import ReportModel


@dataclass
class Draws:
    """A metric on all images, and on draws of them.

    Args:
        value: On all images, each once.
        values: On each draw, (B,).
    """

    value: float
    values: np.ndarray

    @classmethod
    def of(cls, table: ImageTable, how: Bootstrap, num_images: int) -> Draws:
        """Measure a table."""
        return cls(value_of(table, num_images), how.values(table, num_images))

    def kept(self, clean: Draws) -> Draws:
        """Share of the clean metric; NaN of nothing."""
        value = self.value / clean.value if clean.value > 0 else np.nan
        return Draws(value, share_kept(self.values, clean.values))

    def less(self, other: Draws, how: Bootstrap) -> str:
        """Difference to another model with its interval, as tables show it."""
        difference = self.value - other.value
        if np.isnan(difference):
            return '-'
        interval = how.paired_interval(self.values - other.values)
        return f'{difference:+.3f}{spread(interval)}'


def differences_table(
    models: Sequence[ReportModel], budgets: Mapping[Budget, str]
) -> tuple[Table | None, list[str]]:
    """Compare each model with each one before it on the same draws of images.

    Args:
        models: The models.
        budgets: Budgets of the page, as tables show them.

    Returns:
        The table, ``None`` without a pair, and sentences: for each pair that cannot be
        compared so, and where two models met other attacks.
    """
    columns = ['second less first', 'clean']
    for name in budgets.values():
        columns += [name, f'kept, {name}']
    table = Table('Differences on the same images', columns)
    refused: list[str] = []
    for first, second in itertools.combinations(models, 2):
        if first.clean.interval is None and second.clean.interval is None:
            continue  # notes on both say so
        try:
            table.rows.append(_compare(first, second, budgets))
            refused += _met_otherwise(first, second, budgets)
        except (FileNotFoundError, ValueError) as error:
            refused.append(
                f'{first.name} and {second.name} are not compared image by image: '
                f'{error}'
            )
    return (table if table.rows else None), refused


def _compare(
    first: ReportModel, second: ReportModel, budgets: Mapping[Budget, str]
) -> list[str]:
    """Cells of one pair.

    Raises:
        FileNotFoundError, ValueError: If the two cannot be paired.
    """
    tables = load_tables(first), load_tables(second)
    check_pair(*tables)
    count, how = len(tables[0].image_ids), _bootstrap(first)
    clean = [
        Draws.of(of.rows[model.clean.key], how, count)
        for of, model in zip(tables, (first, second))
    ]
    cells = [f'{second.name} less {first.name}', clean[1].less(clean[0], how)]
    for budget in budgets:
        left = []
        for of, model in zip(tables, (first, second)):
            entry = model.lead.get(budget)
            if entry is not None and entry.key in of.rows:
                left.append(Draws.of(of.rows[entry.key], how, count))
        if len(left) < 2:
            cells += ['-', '-']
            continue
        shares = [draws.kept(of) for draws, of in zip(left, clean)]
        cells += [left[1].less(left[0], how), shares[1].less(shares[0], how)]
    return cells


def _met_otherwise(
    first: ReportModel, second: ReportModel, budgets: Mapping[Budget, str]
) -> Iterator[str]:
    """Say where a difference is one of attacks as well."""
    for budget, name in budgets.items():
        met = [_attacks_of(model, budget) for model in (first, second)]
        if all(met) and met[0] != met[1]:
            told = ' and '.join(
                f'{model.name} of {", ".join(sorted(map(_words, attacks)))}'
                for model, attacks in zip((first, second), met)
            )
            yield (
                f'{second.name} less {first.name}, {name}: a difference of attacks as '
                f'well as of models ({told}).'
            )


def _attacks_of(model: ReportModel, budget: Budget) -> set[tuple]:
    """Settings of the attacks behind what leads at a budget."""
    lead = model.lead.get(budget)
    if lead is None:
        return set()
    members = [entry for entry in model.entries if entry.key in lead.members]
    return {settings_of(entry) for entry in members or [lead]}


def _words(attack: tuple) -> str:
    label, _, steps, restarts, *_ = attack
    text = label if steps is None else f'{label} with {steps} steps'
    return text if (restarts or 1) == 1 else f'{text}, {restarts} times'


def _bootstrap(model: ReportModel) -> Bootstrap:
    spread = model.results.intervals
    return Bootstrap(spread.resamples, spread.level, spread.seed)


def load_tables(model: ReportModel) -> RowTables:
    """Read the tables beside a report.

    Raises:
        FileNotFoundError: If they are missing.
        ValueError: If the report has none, or they are damaged or of another run.
    """
    intervals = model.results.intervals
    if intervals is None or not intervals.tables:
        raise ValueError(
            f'{model.name} has no intervals; measure it anew with tools/test.py '
            '--attack.'
        )
    path = model.path.with_name(intervals.tables)
    if path.parent != model.path.parent:
        raise ValueError(f'the tables of {model.name} must lie beside its report.')
    tables = RowTables.load(path)
    same = tables.image_ids == [str(image) for image in model.results.image_ids]
    if not same or model.clean.key not in tables.rows:
        raise ValueError(f'{path} is of another run than the report beside it.')
    return tables


def check_pair(first: RowTables, second: RowTables) -> None:
    """Complain about two models that were not measured alike.

    Raises:
        ValueError: If images, metric or ground truth differ.
    """
    if first.image_ids != second.image_ids:
        raise ValueError(
            f'they were measured on different images ({len(first.image_ids)} and '
            f'{len(second.image_ids)}); test both on the same ones.'
        )
    if first.metric != second.metric:
        raise ValueError(f'one is measured by {first.metric}, one by {second.metric}.')
    if not np.array_equal(_objects(first), _objects(second)):
        raise ValueError('their ground truth or their classes differ.')


def _objects(tables: RowTables) -> np.ndarray:
    """Objects by image and class; nothing for a metric that counts none."""
    objects = objects_of(next(iter(tables.rows.values())))
    return np.zeros(0) if objects is None else objects
