"""Tables of robustness: rows of one or several models, for a terminal or Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .entry import Entry, main_metric
from .evaluations import range_of
from .rounding import rounded_mark

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from .report.page import Page
    from .results import Results
    from .uncertainty import Interval

ORDER = ('clean', 'worst_case', 'attack', 'control')
UNRELIABLE = ' (!)'
# Metrics by the end of their names, as tables call them.
SHORT_NAMES = {'/mAP': 'mAP', '/bbox_mAP': 'mAP', '/top1': 'accuracy'}


@dataclass
class Table:
    """Text in rows and columns; the first column is flush left, all others right.

    Args:
        title: Title; Markdown has none.
        columns: Names of the columns.
        rows: Cells, as many as columns. A cell that ends with ``(!)`` is unreliable.

    Example:
        >>> print(Table('', ['attack', 'mAP'], [['pgd', '0.400 (!)']]).to_markdown())
        | attack | mAP |
        |---|---|
        | pgd | 0.400 (!) |
    """

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)

    def to_rich(self) -> RichTable:
        """For a terminal; what is unreliable is red."""
        from rich.markup import escape
        from rich.table import Table as RichTable

        table = RichTable(title=escape(self.title))
        for number, column in enumerate(self.columns):
            table.add_column(escape(column), justify='right' if number else 'left')
        for row in self.rows:
            cells = [escape(cell) for cell in row]
            red = f' [bold red]{UNRELIABLE.strip()}[/]'
            table.add_row(*[cell.replace(UNRELIABLE, red) for cell in cells])
        return table

    def to_markdown(self) -> str:
        """For a README."""
        lines = [self.columns, ['---'] * len(self.columns), *self.rows]
        texts = [[markdown(cell) for cell in line] for line in lines]
        rule = '|' + '|'.join(texts[1]) + '|'
        written = ['| ' + ' | '.join(cells) + ' |' for cells in texts]
        return '\n'.join([written[0], rule, *written[2:]])


def markdown(text: object) -> str:
    """Any text as Markdown that stays text, also in a table."""
    text = str(text).replace('\n', ' ').replace('|', '\\|')
    return text.replace('<', '&lt;')


@dataclass
class Row:
    """The same attack with the same settings on several models.

    Args:
        entry: Entry of the first model that met it.
        cells: Entry of each model, or ``None``.
    """

    entry: Entry
    cells: list[Entry | None]


def align(models: Sequence[Sequence[Entry]]) -> list[Row]:
    """Put entries of several models side by side where their settings are alike.

    Rows come by role (clean, worst case, attacks, controls), then in the order in which
    attacks are first met, then by budget.
    """
    rows: list[Row] = []
    for number, entries in enumerate(models):
        for entry in entries:
            row = _free_row(rows, entry, number)
            if row is None:
                row = Row(entry, [None] * len(models))
                rows.append(row)
            row.cells[number] = entry
    labels = [row.entry.label for row in rows]

    def place(row: Row) -> tuple:
        budget = row.entry.budget
        size = ('', '', 0.0)
        if budget is not None:
            size = budget.mask, budget.norm, budget.radius
        return ORDER.index(row.entry.role), labels.index(row.entry.label), size

    return sorted(rows, key=place)


def _free_row(rows: Sequence[Row], entry: Entry, number: int) -> Row | None:
    """A row of such entries that has none of this model yet."""
    for row in rows:
        if settings_of(row.entry) == settings_of(entry) and row.cells[number] is None:
            return row
    return None


def settings_of(entry: Entry) -> tuple:
    """What tells two rows apart that cannot be compared."""
    return (
        entry.label,
        entry.budget,
        entry.steps,
        entry.restarts,
        entry.eot,
        entry.quantize,
    )


def short_name(metric: str) -> str:
    """How tables call a metric: ``'mAP'``, ``'accuracy'``, or its full name."""
    for end, name in SHORT_NAMES.items():
        if metric.endswith(end):
            return name
    return metric


def score(entry: Entry) -> str:
    """Main metric with its marks: ``*`` counts rows above, ``(!)`` is unreliable."""
    text = f'{entry.value:.3f}'
    if entry.cumulative:
        text += '*'
    return text + spread(entry.interval) + range_of(entry) + _mark(entry)


def spread(interval: Interval | None) -> str:
    """An interval after its value, ``' [0.371, 0.450]'``; nothing without one."""
    return '' if interval is None else ' [{:.3f}, {:.3f}]'.format(*interval)


def share(kept: float | None, interval: Interval | None = None) -> str:
    """A share in percent with its interval, ``'52 % [47, 56]'``; ``'-'`` of nothing."""
    if kept is None:
        return '-'
    text = f'{100 * kept:.0f} %'
    if interval is not None:
        text += ' [{:.0f}, {:.0f}]'.format(*(100 * end for end in interval))
    return text


def number(value: float | None) -> str:
    """A number without digits after the point, or nothing."""
    return '' if value is None else f'{value:,.0f}'


def kept(entry: Entry, clean: Entry) -> float | None:
    """Share of the clean metric that is left; ``None`` if there was nothing."""
    return entry.value / clean.value if clean.value > 0 else None


def results_table(results: Results) -> Table:
    """All rows of one model."""
    metric = short_name(results.clean.metric)
    title = f'{results.name}: robust {metric} (protocol: {results.protocol})'
    if results.clean.interval is None:
        title += ', no intervals'
    columns = ['attack', 'budget', 'steps', metric, 'kept']
    table = Table(title, [*columns, 'seconds', 'gradients', 'queries'])
    for entry in results.entries:
        table.rows.append(
            [
                entry.label,
                entry.where,
                number(entry.steps),
                score(entry),
                share(kept(entry, results.clean), entry.kept_interval),
                f'{entry.cost.seconds:,.1f}',
                number(entry.cost.grad_evals),
                number(entry.cost.queries),
            ]
        )
    return table


def page_table(page: Page) -> Table:
    """All rows of several models, side by side."""
    columns = ['attack', 'budget', 'steps']
    for model in page.models:
        columns += [model.name, 'kept']
    table = Table('', columns)
    for row in page.table:
        cells = [row.entry.label, row.entry.where, number(row.entry.steps)]
        for model, entry in zip(page.models, row.cells):
            if entry is None:
                cells += ['-', '-']
            else:
                left = share(model.kept(entry), entry.kept_interval)
                cells += [score(entry), left]
        table.rows.append(cells)
    return table


def comparison_table(page: Page) -> Table:
    """One line for each model: clean, and what is left at worst at each budget."""
    metric = short_name(page.models[0].clean.metric)
    title = f'{metric} and share kept: the worst case, else the worst attack'
    budgets = page.budgets.values()
    columns = ['model', 'images', 'clean', *budgets, 'M params', 'train s', 'attack s']
    table = Table(title, columns)
    for model in page.models:
        cells = [model.name, str(model.clean.num_images), score(model.clean)]
        for budget in page.budgets:
            entry = model.lead.get(budget)
            if entry is None:
                cells.append('-')
            else:
                value = f'{entry.value:.3f}{spread(entry.interval)}{range_of(entry)}'
                left = share(model.kept(entry), entry.kept_interval)
                cells.append(f'{value} {left} {entry.label}{_mark(entry)}')
        parameters, seconds = model.cost.trainable_params, model.cost.train_seconds
        cells.append('' if parameters is None else f'{parameters / 1e6:.2f}')
        cells.append(number(seconds))
        cells.append(number(sum(e.cost.seconds for e in model.entries)))
        table.rows.append(cells)
    return table


def _mark(entry: Entry) -> str:
    bound = entry.upper_bound and entry.role == 'worst_case'
    marks = rounded_mark(entry) + (' (upper bound)' if bound else '')
    return marks + (UNRELIABLE if entry.flags else '')


def broke_table(results: Results) -> Table | None:
    """What became of the objects under each attack; ``None`` if nobody looked."""
    rows = [(entry, entry.broke) for entry in results.entries if entry.broke]
    if not rows:
        return None
    least = rows[0][1].score_threshold
    title = f'{results.name}: what broke (detections of score {least:g} or more)'
    columns = ['attack', 'budget', 'right', 'wrong class', 'moved', 'lost']
    table = Table(title, [*columns, 'false / image', 'mean IoU', 'AP of any class'])
    for entry, broke in rows:
        known = broke.intervals
        shares = [
            share(getattr(broke, name), known.get(name))
            for name in ('right', 'wrong_class', 'moved', 'lost')
        ]
        false = f'{broke.false_per_image:.2f}'
        if 'false_per_image' in known:
            false += ' [{:.2f}, {:.2f}]'.format(*known['false_per_image'])
        last = [
            '-' if value is None else f'{value:.3f}{spread(known.get(name))}'
            for name, value in (
                ('mean_iou', broke.mean_iou),
                ('any_class_ap', broke.any_class_ap),
            )
        ]
        table.rows.append([entry.label, entry.where, *shares, false, *last])
    return table


def corruptions_table(report: Mapping[str, Any]) -> Table:
    """Corruptions by severities, with their means, of a ``corruptions.json``."""
    values = {}
    for row in report['results']:
        values[row['corruption'], row['severity']] = main_metric(row['metrics'])
    rpc = report['rPC']
    ends = report['intervals']
    title = (
        f'P {report["P"]:.3f}{spread(ends["P"])}, '
        f'mPC {report["mPC"]:.3f}{spread(ends["mPC"])}, '
        f'rPC {"undefined" if rpc is None else share(rpc, ends["rPC"])}'
    )
    columns = ['corruption', *map(str, report['severities']), 'mean']
    table = Table(title, columns)
    for name in report['corruptions']:
        cells = [values[name, severity] for severity in report['severities']]
        cells.append(sum(cells) / len(cells))
        table.rows.append([name, *(f'{value:.3f}' for value in cells)])
    return table
