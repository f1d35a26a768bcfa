"""Results of a search as a table, a heat map, a page, and lines of a config."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmdiff.diffusion import DiffusionModel
from mmdiff.evaluation.tables import UNRELIABLE, Table, markdown
from mmdiff.utils.files import whole_file

from .grid import Cell
from .results import CellResult, SearchResults


def results_table(results: SearchResults) -> Table:
    """Cells, the best first: clean, attacked, and the mean that ranks them."""
    columns = ['taps', results.unit, 'noises', 'clean']
    columns += [f'eps {eps:g}' for eps in results.eps]
    table = Table(f'{results.metric} of probes', [*columns, 'mean', 's'])
    for result in results.ranked:
        cell = result.cell
        mark = UNRELIABLE if result.hides_gradients else ''
        attacked = [f'{results.measured(v)}{mark}' for v in result.attacked.values()]
        table.rows.append(
            [
                cell.name,
                f'{cell.time:g}',
                str(cell.num_noise),
                str(results.measured(result.clean)),
                *attacked,
                f'{result.score:.3f}',
                f'{result.seconds:.0f}',
            ]
        )
    return table


def name_cells(results: SearchResults, cells: Sequence[Cell]) -> str:
    """Name cells in a sentence: ``'up.1 at 50, mid at 50 (4 noises)'``."""
    names = []
    for cell in cells:
        noises = '' if cell.num_noise == 1 else f' ({cell.num_noise} noises)'
        names.append(f'{cell.name} at {results.unit} {cell.time:g}{noises}')
    return ', '.join(names)


def notes(results: SearchResults) -> list[str]:
    """Sentences that belong to the table."""
    lines = []
    if results.cells:
        best = results.best
        lines.append(
            f'Best: {name_cells(results, [best.cell])}, mean {best.score:.3f} of clean '
            'and every budget.'
        )
        alike = [result.cell for result in results.alike]
        if alike:
            lines.append(
                'Not told apart from it by these images (95 % interval of the paired '
                f'difference holds 0): {name_cells(results, alike)}.'
            )
    if results.missing:
        lines.append(
            f'Not measured yet: {name_cells(results, results.missing)}; start the '
            'search again, and it goes on.'
        )
    if any(result.hides_gradients for result in results.cells):
        lines.append(
            '(!): more than a tenth of the gradients were zero or not finite, so the '
            'attack says little there.'
        )
    return lines


def config_lines(results: SearchResults, model: DiffusionModel) -> str:
    """Lines for a config that sets a backbone to the best cell.

    Args:
        results: The results, of one cell at least.
        model: The prior.
    """
    best = results.best.cell
    infos = sorted(model.resolve_taps(list(best.taps)), key=lambda info: info.stride)
    taps = ', '.join(f'{info.name!r}' for info in infos)
    lines = [
        'model = dict(',
        '    backbone=dict(',
        f'        out_indices=({taps},),',
        f'        {results.unit}={best.time!r},',
        f'        num_noise={best.num_noise},',
        '    ),',
    ]
    channels = [info.channels for info in infos]
    if results.about['task'] == 'detection':
        strides = [info.stride for info in infos]
        lines.append(f'    neck=dict(in_channels={channels}, in_strides={strides}),')
    elif len(infos) == 1:
        lines.append(f'    head=dict(in_channels={channels[0]}),')
    else:
        lines.append('    # heads of mmpretrain take one tap: join these in a neck')
    return '\n'.join([*lines, ')'])


def to_markdown(results: SearchResults, lines: str, file: Path) -> None:
    """Write the page of a search: where it comes from, table, heat map, lines."""
    about, settings = results.about, results.about['settings']
    images, prior = about['dataset'], about['prior']
    source = prior['source'] if isinstance(prior['source'], str) else 'random weights'
    text = [
        f'# Search of taps: {markdown(about["config"])}',
        '',
        f'Prior `{source}`, noise `{prior["noise"]}`. Probe: {about["probe"]}, fitted '
        f'on {images["fit"]} training images and measured on {images["held_out"]} '
        f'others of them; seed {settings["seed"]}.',
        f'Attack: PGD through the whole model, {settings["steps"]} steps, linf, eot '
        f'{settings["eot"]}; eps in pixel units, of 255. '
        f'{results.metric.capitalize()} with bootstrap 95 % intervals over images.',
        '',
        results_table(results).to_markdown(),
        '',
        *notes(results),
        '',
        '```python',
        lines,
        '```',
        '',
        '![clean and attacked, taps by times](search.png)',
    ]
    with whole_file(file) as partial:
        partial.write_text('\n'.join(text) + '\n', encoding='utf-8')


def draw_heat_map(results: SearchResults, file: Path) -> None:
    """Draw taps by times: clean, and each budget beside it, a row for each num_noise.

    Args:
        results: The results.
        file: PNG to write.
    """
    from matplotlib.figure import Figure

    cells = [*(result.cell for result in results.cells), *results.missing]
    taps = list(dict.fromkeys(cell.name for cell in cells))
    times = sorted({cell.time for cell in cells})
    counts = sorted({cell.num_noise for cell in cells})
    # One scale for all panels; nothing is worth 0.
    highest = max(result.clean.mean() for result in results.cells) or 1.0
    titles = ['clean', *(f'PGD, eps {eps:g}/255' for eps in results.eps)]
    width = 1.6 + len(titles) * (0.7 + 0.52 * len(times))
    height = (1.2 + 0.34 * len(taps)) * len(counts) + 0.3
    figure = Figure(figsize=(width, height), layout='constrained')
    grid = figure.subplots(len(counts), len(titles), squeeze=False, sharey=True)
    for row, count in zip(grid, counts):
        chosen = [r for r in results.cells if r.cell.num_noise == count]
        for number, (axes, title) in enumerate(zip(row, titles)):
            values = _values(chosen, taps, times, number)
            _draw_panel(axes, values, highest, taps, times)
            noises = '' if len(counts) == 1 else f', {count} noises'
            axes.set_title(f'{title}{noises}', fontsize=9)
            axes.set_xlabel(results.unit, fontsize=8)
    figure.suptitle(f'{results.about["config"]}: {results.metric}', fontsize=9)
    with whole_file(file) as partial:
        figure.savefig(partial, dpi=110, metadata={'Software': None})


def _values(
    results: Sequence[CellResult], taps: list[str], times: list, number: int
) -> np.ndarray:
    """Scores of a panel, (taps, times); NaN where nothing is measured."""
    values = np.full((len(taps), len(times)), np.nan)
    for result in results:
        scores = [result.clean, *result.attacked.values()][number]
        place = taps.index(result.cell.name), times.index(result.cell.time)
        values[place] = scores.mean()
    return values


def _draw_panel(
    axes: Any, values: np.ndarray, highest: float, taps: list[str], times: list
) -> None:
    """Draw one panel, with the value in each cell."""
    axes.imshow(values, vmin=0, vmax=highest, cmap='viridis', aspect='auto')
    axes.set_xticks(range(len(times)), [f'{time:g}' for time in times], fontsize=7)
    axes.set_yticks(range(len(taps)), taps, fontsize=7)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            color = 'white' if value < 0.6 * highest else 'black'
            text = f'{value:.2f}'.removeprefix('0')
            style = {'ha': 'center', 'va': 'center', 'fontsize': 7, 'color': color}
            axes.text(column, row, text, **style)
