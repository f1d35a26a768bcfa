"""Write a page for people: HTML, Markdown, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..entry import Entry
from ..rounding import rounded_mark
from ..tables import markdown, page_table, share, spread
from .page import Page
from .read import ReportModel

TEMPLATES = Path(__file__).parents[2] / 'assets'
COLUMNS = (
    'model',
    'role',
    'label',
    'norm',
    'eps',
    'mask',
    'steps',
    'restarts',
    'eot',
    'quantize',
    'images',
    'metric',
    'value',
    'low',
    'high',
    'kept',
    'kept_low',
    'kept_high',
    'image_score',
    'worst_restart',
    'after_rounding',
    'cumulative',
    'upper_bound',
    'seconds',
    'grad_evals',
    'queries',
    'flags',
    'reasons',
)


def render(page: Page) -> str:
    """Fill the template of the HTML page, which needs no other file."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters['share'] = share
    environment.filters['spread'] = spread
    environment.filters['rounded_mark'] = rounded_mark
    return environment.get_template('report.html.j2').render(vars(page))


def render_markdown(page: Page) -> str:
    """The main table with its notes, for a README."""
    images = ', '.join(
        f'{model.clean.num_images} ({markdown(model.name)})' for model in page.models
    )
    metric = markdown(page.models[0].clean.metric)
    parts = [
        page_table(page).to_markdown(),
        f"{metric}; kept: share of the model's own clean {page.metric}; images: "
        f'{images}.',
    ]
    if page.differences is not None:
        parts += [f'{page.differences.title}:', page.differences.to_markdown()]
    for model in page.models:
        for reason in model.reasons:
            parts.append(f'**(!) {markdown(model.name)}:** {markdown(reason)}.')
    parts += [markdown(note) for note in page.notes]
    return '\n\n'.join(parts) + '\n'


def to_csv(models: Sequence[ReportModel]) -> str:
    """One line for each model and entry, with all digits."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS)
    writer.writeheader()
    for model in models:
        for entry in model.entries:
            writer.writerow(_csv_row(model, entry))
    return out.getvalue()


def _csv_row(model: ReportModel, entry: Entry) -> dict[str, Any]:
    return {
        'model': model.name,
        'role': entry.role,
        'label': entry.label,
        'norm': entry.norm,
        'eps': entry.eps,
        'mask': entry.budget.mask if entry.budget else '',
        'steps': entry.steps,
        'restarts': entry.restarts,
        'eot': entry.eot,
        'quantize': entry.quantize,
        'images': entry.num_images,
        'metric': entry.metric,
        'value': entry.value,
        'low': entry.interval and entry.interval[0],
        'high': entry.interval and entry.interval[1],
        'kept': model.kept(entry),
        'kept_low': entry.kept_interval and entry.kept_interval[0],
        'kept_high': entry.kept_interval and entry.kept_interval[1],
        'image_score': entry.image_score,
        'worst_restart': entry.worst_restart,
        'after_rounding': entry.after_rounding,
        'cumulative': entry.cumulative,
        'upper_bound': entry.upper_bound,
        'seconds': entry.cost.seconds,
        'grad_evals': entry.cost.grad_evals,
        'queries': entry.cost.queries,
        'flags': '; '.join(flag.code for flag in entry.flags),
        'reasons': '; '.join(entry.reasons),
    }
