"""Results of an analysis as figures: one for each measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmdiff.utils.files import whole_file

from .results import CKA, AnalysisResults, Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .estimates import Estimate

    Pairs = Sequence[tuple[Measured, Any]]


def draw_figures(results: AnalysisResults, folder: Path) -> list[str]:
    """Draw one figure for each measure that was taken.

    Args:
        results: The results.
        folder: Where they go.

    Returns:
        Names of the files: ``probe.png``, ...
    """
    from matplotlib.figure import Figure

    names = []
    for measure, draw in DRAWING.items():
        pairs = results.of(measure)
        if pairs:
            figure = Figure(figsize=(6.4, 4.2), layout='constrained')
            draw(figure, pairs)
            names.append(_save(figure, folder / f'{measure}.png'))
    if results.similarities:
        side = 2.8 + 0.55 * len(results.measured)
        figure = Figure(figsize=(side + 1.6, side), layout='constrained')
        _draw_similarities(figure, results)
        names.append(_save(figure, folder / f'{CKA}.png'))
    return names


def _save(figure: Figure, file: Path) -> str:
    with whole_file(file) as partial:
        figure.savefig(partial, dpi=110, metadata={'Software': None})
    return file.name


def _reach(estimates: Sequence[Estimate]) -> np.ndarray | None:
    """How far intervals go below and above, (2, N), as error bars are given."""
    if any(one.interval is None for one in estimates):
        return None
    ends = np.array([one.interval for one in estimates], float)
    values = np.array([one.value for one in estimates])
    return np.stack([values - ends[:, 0], ends[:, 1] - values]).clip(0)


def _style(axes: Axes, x: str, y: str, legend: bool = True) -> None:
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.tick_params(labelsize=7)
    if legend:
        axes.legend(fontsize=6)


def _draw_probes(figure: Figure, pairs: Pairs) -> None:
    axes = figure.subplots()
    for number, (one, result) in enumerate(pairs):
        first = result.clean_of_attacked or result.clean
        estimates = [first, *(each.score for each in result.attacked)]
        eps = np.array([0, *(each.eps for each in result.attacked)])
        place = eps + 0.02 * max(eps.max(), 1) * number  # so that bars do not hide
        values = [each.value for each in estimates]
        axes.errorbar(
            place, values, _reach(estimates), marker='o', capsize=2, label=one.name
        )
    axes.set_ylim(0, 1)
    _style(axes, 'eps of PGD, of 255 (0: clean)', pairs[0][1].metric)


def _draw_ranks(figure: Figure, pairs: Pairs) -> None:
    axes = figure.subplots()
    for one, result in pairs:
        name = f'{one.name}: effective rank {result.effective_rank.say(".1f")}'
        places = range(1, len(result.spectrum) + 1)
        axes.plot(places, result.spectrum, label=name)
    axes.set_yscale('log')
    _style(axes, 'singular value number', 'share of their sum')


def _draw_spheres(figure: Figure, pairs: Pairs) -> None:
    views = list(dict.fromkeys(v.view for _, r in pairs for v in r.alignment))
    for axes, view in zip(np.atleast_1d(figure.subplots(1, len(views))), views):
        for one, result in pairs:
            chosen = [each for each in result.alignment if each.view == view]
            for each in chosen:
                across = [result.uniformity_centred]
                axes.errorbar(
                    [across[0].value],
                    [each.centred.value],
                    _reach([each.centred]),
                    _reach(across),
                    marker='o',
                    label=one.name,
                )
        axes.set_title(view, fontsize=8)
        _style(axes, 'uniformity, centred', 'alignment, centred')


def _draw_sparse(figure: Figure, pairs: Pairs) -> None:
    axes = figure.subplots()
    first = pairs[0][1]
    kinds = {
        f'{first.active} of {first.latents} latents': 'unexplained',
        f'{first.active} principal components': 'unexplained_dense',
    }
    places = np.arange(len(pairs))
    for number, (label, field) in enumerate(kinds.items()):
        estimates = [getattr(result, field) for _, result in pairs]
        values = [each.value for each in estimates]
        axes.barh(
            places + 0.4 * number, values, 0.36, xerr=_reach(estimates), label=label
        )
    axes.set_yticks(places + 0.2, [one.name for one, _ in pairs])
    axes.invert_yaxis()
    _style(axes, 'fraction of variance unexplained', '')


def _draw_dimensions(figure: Figure, pairs: Pairs) -> None:
    axes = figure.subplots()
    for one, result in pairs:
        (line,) = axes.plot(result.sizes, result.scores, label=one.name)
        for each in result.dimensions:
            place = result.sizes.index(int(each.components.value))
            at = [result.sizes[place]], [result.scores[place]]
            axes.plot(*at, marker='o', color=line.get_color())
    axes.set_xscale('log')
    shares = ', '.join(f'{each.share:.0%}' for each in pairs[0][1].dimensions)
    _style(axes, f'principal components (dots: {shares} of the last)', 'score of probe')


def _draw_frequencies(figure: Figure, pairs: Pairs) -> None:
    axes = figure.subplots()
    for one, result in pairs:
        edges, white = np.array(result.edges), np.array(result.white)
        kept = white > 0
        density = np.array(result.shares)[kept] / white[kept]
        middles = (edges[1:] + edges[:-1])[kept] / 2
        axes.plot(middles, density, marker='.', label=one.name)
    axes.axhline(1, color='grey', linewidth=0.8, linestyle=':')
    axes.set_yscale('log')
    _style(axes, 'cycles per pixel', 'energy of gradients, white noise = 1')


def _draw_similarities(figure: Figure, results: AnalysisResults) -> None:
    names = [one.name for one in results.measured]
    values = np.full((len(names), len(names)), np.nan)
    np.fill_diagonal(values, 1)
    for one in results.similarities:
        row, column = names.index(one.first), names.index(one.second)
        values[row, column] = values[column, row] = one.debiased.value
    axes = figure.subplots()
    axes.imshow(values, vmin=0, vmax=1, cmap='viridis')
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=90, fontsize=6)
    axes.set_yticks(ticks, names, fontsize=6)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            color = 'white' if value < 0.6 else 'black'
            style: dict[str, Any] = {'ha': 'center', 'va': 'center', 'color': color}
            axes.text(column, row, f'{value:.2f}', fontsize=7, **style)


DRAWING: dict[str, Callable[[Figure, Pairs], None]] = {
    'probe': _draw_probes,
    'rank': _draw_ranks,
    'sphere': _draw_spheres,
    'sparse': _draw_sparse,
    'dimension': _draw_dimensions,
    'frequency': _draw_frequencies,
}
