"""Robustness results: measuring, checking, writing, drawing."""

from .figures import draw_curve, draw_grid
from .robustness import evaluate, main_metric, parse_attacks, write_robustness

__all__ = [
    'draw_curve',
    'draw_grid',
    'evaluate',
    'main_metric',
    'parse_attacks',
    'write_robustness',
]
