"""Figures of a page, as SVG that takes the colour of the page's text."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmdiff.attacks import Budget

from ..entry import Entry

if TYPE_CHECKING:
    from .read import ReportModel


@dataclass(frozen=True)
class CostAxis:
    """An axis of the figure of costs.

    Args:
        unit: What 1 on the axis stands for.
        label: Label of the axis.
    """

    unit: float
    label: str


COSTS = {
    'trainable_params': CostAxis(1e6, 'trainable parameters, millions'),
    'train_seconds': CostAxis(1, 'training, seconds'),
    'attack_seconds': CostAxis(1, 'attacks met by all, seconds per image'),
}
INK = '#010203'  # replaced by the colour of the page's text
STYLE = {
    'svg.fonttype': 'none',
    'svg.hashsalt': 'mmdiff',
    'text.parse_math': False,
    'font.size': 9,
    'text.color': INK,
    'xtick.color': INK,
    'ytick.color': INK,
    'axes.labelcolor': INK,
    'axes.edgecolor': INK,
}
LOOKS: dict[str, dict[str, Any]] = {
    'control': {'ls': ':', 'lw': 1},
    'attack': {'lw': 1},
    'lead': {'lw': 2.5},
}


@dataclass
class Line:
    """A line or a mark of a figure.

    Args:
        points: Pairs of x and y.
        style: How matplotlib draws it.
    """

    points: Sequence[tuple[float, float]]
    style: dict[str, Any]


def draw_curve(models: Sequence[ReportModel], metric: str) -> str:
    """Metric over eps: thick the leading entry, thin each attack, dotted controls."""
    panels: dict[str, list[Line]] = {}
    for model in models:
        for (norm, mask, look, *_), entries in _lines(model).items():
            points = [(0.0, model.clean.value)]
            points += [(entry.eps or 0.0, entry.value) for entry in entries]
            style = {**LOOKS[look], 'color': model.color, 'marker': '.'}
            unit = Budget(norm=norm).unit
            label = f'eps ({norm.capitalize()}, {unit})'
            if mask:  # beside those without, it would be taken for one of them
                label += f', mask {mask}'
            panels.setdefault(label, []).append(Line(sorted(points), style))
    return _draw(f'{metric} over eps', metric, panels)


def _lines(model: ReportModel) -> dict[tuple, list[Entry]]:
    """Entries of each line, by norm, mask, look and what tells attacks apart."""
    lines: dict[tuple, list[Entry]] = {}
    for entry in model.entries:
        if entry.eps and entry.role in LOOKS:
            kind = (entry.norm, entry.budget.mask, entry.role)
            lines.setdefault((*kind, entry.label, entry.steps), []).append(entry)
    for entry in model.lead.values():
        if entry.eps:
            line = (entry.norm, entry.budget.mask, 'lead')
            lines.setdefault(line, []).append(entry)
    return lines


def draw_cost(
    models: Sequence[ReportModel],
    metric: str,
    strongest: Budget | None,
    costs: Sequence[Mapping[str, float]],
) -> str:
    """Metric over what the model costs: hollow clean, filled at one budget.

    Args:
        models: The models.
        metric: Short name of the metric.
        strongest: The budget; without one there is no figure.
        costs: Costs of each model by the names of :data:`COSTS`; 0 is not known.
    """
    panels: dict[str, list[Line]] = {}
    if strongest is None:
        return ''
    for model, of_model in zip(models, costs):
        clean, robust = model.clean.value, model.lead[strongest].value
        filled = {'color': model.color, 'marker': 'o'}
        for name, axis in COSTS.items():
            x = of_model[name] / axis.unit
            if x:
                lines = panels.setdefault(axis.label, [])
                lines.append(Line([(x, clean), (x, robust)], {**filled, 'mfc': 'none'}))
                lines.append(Line([(x, robust)], filled))
    return _draw(f'{metric} over cost', metric, panels)


def _draw(title: str, metric: str, panels: Mapping[str, Sequence[Line]]) -> str:
    """SVG with a panel for each x axis; empty without panels."""
    if not panels:
        return ''
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        size = max(4, 3 * len(panels)), 3
        figure = Figure(figsize=size, layout='constrained')
        grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)
        for axes, (label, lines) in zip(grid[0], panels.items()):
            for line in lines:
                axes.plot(*zip(*line.points), clip_on=False, **line.style)
            axes.set(xlabel=label, ylabel=metric, ylim=(0, None), xlim=(0, None))
            axes.label_outer()
            axes.spines[['top', 'right']].set_visible(False)
            axes.grid(color=INK, alpha=0.15)
        buffer = io.StringIO()
        bare = dict.fromkeys(('Date', 'Creator', 'Format', 'Type'))
        figure.savefig(buffer, format='svg', transparent=True, metadata=bare)
    svg = re.sub(r'<g id="\w+"', '<g', buffer.getvalue()).replace(INK, 'currentColor')
    start = f'<svg role="img" aria-label="{title}"'
    return start + svg[svg.index('<svg') + len('<svg') :]
