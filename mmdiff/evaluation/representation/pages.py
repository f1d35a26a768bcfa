"""Results of an analysis as tables: one for each measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmdiff.evaluation.tables import UNRELIABLE, Table, markdown
from mmdiff.utils.files import whole_file

from .results import (
    CKA,
    AnalysisResults,
    DimensionResult,
    FrequencyResult,
    Measured,
    ProbeResult,
    RankResult,
    Refused,
    SparseResult,
    SphereResult,
)

TITLES = {
    'probe': 'Linear probe',
    'rank': 'Rank',
    'sphere': 'Alignment and uniformity (lower is better)',
    'sparse': 'Sparse autoencoder: fraction of variance unexplained',
    'dimension': 'Classification dimension',
    'frequency': 'Energy of input gradients above a frequency (cycles per pixel)',
    'cka': 'CKA, debiased',
}


def _probe(result: ProbeResult) -> dict[str, str]:
    mark = UNRELIABLE if result.hides_gradients else ''
    cells = {f'clean, {result.images} images': result.clean.say()}
    if result.clean_of_attacked is not None:
        title = f'clean, {result.attacked_images} images'
        cells[title] = result.clean_of_attacked.say()
    for attacked in result.attacked:
        title = f'PGD {attacked.eps:g}, {result.attacked_images} images'
        cells[title] = attacked.score.say() + mark
    return cells


def _rank(result: RankResult) -> dict[str, str]:
    limited = UNRELIABLE if result.notes else ''
    return {
        'effective rank': result.effective_rank.say('.1f') + limited,
        'components, 99 % of variance': str(result.components) + limited,
        'highest possible': str(result.limit),
    }


def _sphere(result: SphereResult) -> dict[str, str]:
    cells = {
        'uniformity': result.uniformity.say(),
        'centred': result.uniformity_centred.say(),
    }
    for one in result.alignment:
        cells[f'alignment, {one.view}'] = one.raw.say('.4f')
        cells[f'{one.view}, centred'] = one.centred.say()
    return cells


def _sparse(result: SparseResult) -> dict[str, str]:
    return {
        f'{result.active} of {result.latents} latents': result.unexplained.say(),
        f'{result.active} components': result.unexplained_dense.say(),
        'latents, images to fit on': f'{result.unexplained_fit:.3f}',
        'never active': f'{result.never_active:.0%}',
    }


def _dimension(result: DimensionResult) -> dict[str, str]:
    cells = {
        f'components, {one.share:.0%} of the score': one.components.say('.0f')
        for one in result.dimensions
    }
    cells['of'] = str(result.sizes[-1])
    cells['score, all'] = f'{result.scores[-1]:.3f}'
    return cells


def _frequency(result: FrequencyResult) -> dict[str, str]:
    cells = {}
    for one in result.above:
        cells[f'above {one.cutoff:g}'] = one.share.say()
        cells[f'white noise {one.cutoff:g}'] = f'{one.white:.3f}'
    return cells


CELLS: dict[str, Callable[[Any], dict[str, str]]] = {
    'probe': _probe,
    'rank': _rank,
    'sphere': _sphere,
    'sparse': _sparse,
    'dimension': _dimension,
    'frequency': _frequency,
}


def result_tables(results: AnalysisResults) -> list[Table]:
    """One table for each measure that was taken, in the order of the measures."""
    tables = []
    for measure, cells_of in CELLS.items():
        rows = [(one, cells_of(result)) for one, result in results.of(measure)]
        if rows:
            tables.append(_table(TITLES[measure], rows))
    if results.similarities:
        tables.append(_similarities(results))
    return tables


def _table(title: str, rows: Sequence[tuple[Measured, dict[str, str]]]) -> Table:
    columns = list(dict.fromkeys(name for _, cells in rows for name in cells))
    table = Table(title, ['representation', 'd', *columns])
    for one, cells in rows:
        values = [cells.get(name, '-') for name in columns]
        table.rows.append([one.name, str(one.dimensions), *values])
    return table


def _similarities(results: AnalysisResults) -> Table:
    """CKA of all pairs; names are rows, and numbers the columns."""
    names = [one.name for one in results.measured]
    known = {(one.first, one.second): one.debiased for one in results.similarities}
    columns = [str(number) for number in range(1, len(names) + 1)]
    table = Table(TITLES[CKA], ['representation', *columns])
    for row, name in enumerate(names):
        cells = []
        for column, other in enumerate(names):
            estimate = known.get((name, other)) or known.get((other, name))
            if row == column:
                cells.append('1')
            else:
                cells.append('-' if estimate is None else estimate.say('.2f'))
        table.rows.append([f'{row + 1} {name}', *cells])
    return table


def notes(results: AnalysisResults) -> list[str]:
    """Sentences that belong to the tables."""
    lines = []
    for one in results.measured:
        for measure, result in one.results.items():
            if isinstance(result, Refused):
                lines.append(f'{one.name}: no {measure}. {result.refused}')
            else:
                lines += [f'{one.name}, {measure}: {note}' for note in result.notes]
    for _, result in results.of('probe'):
        if result.hides_gradients:
            lines.append(
                '(!) of a probe: more than a tenth of the gradients were zero or not '
                'finite, so the attack says little there.'
            )
            break
    lines += results.refused
    if results.missing:
        lines.append(
            f'Not measured yet: {", ".join(results.missing)}; start the analysis '
            'again, and it goes on.'
        )
    return list(dict.fromkeys(lines))


def to_markdown(results: AnalysisResults, figures: Sequence[str], file: Path) -> None:
    """Write the page of an analysis: where it comes from, tables, figures.

    Args:
        results: The results.
        figures: Names of the figures beside the page.
        file: The page.
    """
    about = results.about
    images, settings = about['dataset'], about['settings']
    text = [
        '# Analysis of representations',
        '',
        f'{images["held_out"]} test images to measure on, {images["fit"]} '
        f'{images["fit_from"]} images to fit probes and autoencoders on; seed '
        f'{settings["seed"]}. Brackets: 95 % intervals over the images that are '
        'measured.',
        '',
    ]
    for table in result_tables(results):
        text += [f'**{markdown(table.title)}**', '', table.to_markdown(), '']
    text += [markdown(note) + '\n' for note in notes(results)]
    text += [f'![{Path(name).stem}]({name})' for name in figures]
    with whole_file(file) as partial:
        partial.write_text('\n'.join(text) + '\n', encoding='utf-8')
