"""Pages of ``robustness.json`` files: read, arrange, draw, render.

Nothing here needs torch or an mm package.
"""

from .page import Page, build_page
from .picture import draw_picture
from .read import ReportModel, read_reports
from .render import render, render_markdown, to_csv

__all__ = [
    'Page',
    'ReportModel',
    'build_page',
    'draw_picture',
    'read_reports',
    'render',
    'render_markdown',
    'to_csv',
]
