"""One picture of several models, as a file for a paper or a README."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmdiff.attacks import Budget
from mmdiff.utils.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .page import Page
    from .read import ReportModel

SUFFIXES = ('.png', '.svg', '.pdf')


def draw_picture(page: Page, path: Path) -> None:
    """Draw metric over eps, and beside it over training seconds where these are known.

    Left: what each model keeps at each budget, a bar for its 95 % interval. Right, if
    two models or more know their training time: the same values over it, hollow clean,
    filled under attack, larger budgets paler.

    Args:
        page: The page of the models.
        path: File to write; its suffix says the format.

    Raises:
        ValueError: For another format, or if there is no budget to draw.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f'{path.name} is of no format that can be drawn; end it in one of '
            f'{", ".join(SUFFIXES)}.'
        )
    budgets = _drawn(page)
    if not budgets:
        raise ValueError('No attack of these files has a budget, so nothing is drawn.')
    from matplotlib.figure import Figure

    timed = [m for m in page.models if m.cost.train_seconds]
    panels = 2 if len(timed) > 1 else 1
    figure = Figure(figsize=(4.6 * panels, 4), layout='constrained')
    grid = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    for model in page.models:
        _draw_curve(grid[0], model, budgets)
    norm = budgets[0].norm.capitalize()
    grid[0].set(xlabel=f'eps ({norm}, {budgets[0].unit})', ylabel=page.metric)
    if panels == 2:
        for model in timed:
            _draw_cost(grid[1], model, budgets)
        grid[1].set_xlabel('training, seconds')
        times = [model.cost.train_seconds or 0 for model in timed]
        if max(times) > 10 * min(times):
            grid[1].set_xscale('log')
        else:
            grid[1].set_xlim(0, None)
    for axes in grid:
        axes.set_ylim(0, None)
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(alpha=0.15)
    figure.legend(
        *grid[0].get_legend_handles_labels(),
        loc='outside lower center',
        ncols=2,
        frameon=False,
        fontsize=8,
    )
    with whole_file(path) as partial:
        figure.savefig(partial, format=path.suffix.lower()[1:], dpi=150)


def _drawn(page: Page) -> list[Budget]:
    """Budgets of the norm and mask of the strongest one, small ones first."""
    last = page.strongest
    if last is None:
        return []
    kind = last.norm, last.mask
    return [b for b in page.budgets if (b.norm, b.mask) == kind]


def _draw_curve(axes: Axes, model: ReportModel, budgets: Sequence[Budget]) -> None:
    met = [(b.eps, model.lead[b]) for b in budgets if b in model.lead]
    points = [(0.0, model.clean), *met]
    axes.plot(
        [eps for eps, _ in points],
        [entry.value for _, entry in points],
        color=model.color,
        marker='.',
        label=model.name,
    )
    for eps, entry in points:
        if entry.interval is not None:
            axes.vlines(eps, *entry.interval, color=model.color, alpha=0.35, lw=3)


def _draw_cost(axes: Axes, model: ReportModel, budgets: Sequence[Budget]) -> None:
    x = model.cost.train_seconds or 0
    met = [model.lead[b] for b in budgets if b in model.lead]
    lowest = min(entry.value for entry in [model.clean, *met])
    axes.vlines(x, lowest, model.clean.value, color=model.color, alpha=0.3, lw=1)
    axes.plot(x, model.clean.value, 'o', color=model.color, mfc='none')
    for number, entry in enumerate(met):
        shade = 1 - 0.7 * number / len(budgets)
        axes.plot(x, entry.value, 'o', color=model.color, alpha=shade)
